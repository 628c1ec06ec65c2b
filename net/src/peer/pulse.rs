//! Whether the other side of a connection still lives, while somebody needs to know.
//!
//! ```text
//!  at rest ── a stream is open, or somebody doubts ──▶ pulses ── nothing is heard ──▶ closed
//!     ▲                                                  │
//!     └──────── no stream is open, and it was heard ─────┘
//! ```
//!
//! At rest the link itself says seldom that it lives; of a laptop's battery and of the network
//! nothing more is taken.

use std::time::Duration;

use tokio::time::sleep;

use super::table::Live;
use crate::config::Timing;
use crate::link::{CloseCode, LinkError};

/// Within this time what was sent on a stream is usually acknowledged, and what was on its way when
/// somebody began to doubt has come.
const SHORT: Duration = Duration::from_millis(250);

/// Watches a connection until it is silent for too long, and closes it then.
pub(crate) async fn listen(live: &Live, timing: &Timing) -> LinkError {
    loop {
        live.roused().await;
        let before = live.connection.heard();
        sleep(SHORT).await;
        // Of a stream that has ended again the acknowledgement tells enough.
        let is_silent = live.connection.heard() == before;
        if (is_silent || is_needed(live)) && !answers(live, timing).await {
            live.connection.close(CloseCode::Silent, "nothing was heard from here for too long");
            return LinkError::Silent;
        }
    }
}

fn is_needed(live: &Live) -> bool {
    live.is_doubted() || !live.is_unused()
}

/// Pulses while that is needed; `false` when nothing is heard in time. Silence is counted by pulses,
/// not by the clock: what this process has slept through says nothing of the other.
async fn answers(live: &Live, timing: &Timing) -> bool {
    let connection = &live.connection;
    let (mut before, mut silent, mut was_doubted) = (connection.heard(), Duration::ZERO, false);
    loop {
        let is_doubted = live.is_doubted();
        let (limit, pause) = match is_doubted {
            true => (timing.doubted, timing.doubted / 3),
            false => (timing.silent, timing.pulse.min(timing.silent / 3)),
        };
        if is_doubted && !was_doubted {
            silent = Duration::ZERO;
        }
        was_doubted = is_doubted;
        connection.pulse();
        sleep(pause).await;
        let now = connection.heard();
        if now == before {
            silent += pause;
            // What was heard last may have come at any time between two looks.
            if silent + pause > limit {
                return false;
            }
            continue;
        }
        (before, silent) = (now, Duration::ZERO);
        // Who has begun to doubt meanwhile may know of what came after it.
        if is_doubted {
            live.believe();
        }
        if !is_needed(live) {
            return true;
        }
    }
}
