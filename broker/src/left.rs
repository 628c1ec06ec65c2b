//! Where an app has been too much: what keeps it from being passed to and fro.

use std::time::Duration;

use phantom_model::NodeId;

/// So long it is remembered.
const MEMORY: Duration = Duration::from_secs(4 * 3600);
/// Within this time it does not go back, whatever is promised there.
const PAUSE: Duration = Duration::from_secs(60);
/// It goes back only where it would get this many times what it got before: loads and measures
/// differ by less from one minute to the next.
const WORTH: f64 = 1.3;
/// So many places are remembered.
const MOST: usize = 64;

/// The nodes an app left because it exceeded its limits there.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Left(Vec<Place>);

#[derive(Debug, Clone, Copy, PartialEq)]
struct Place {
    node: NodeId,
    at: Duration,
    /// What it got there, in Mflop/s.
    rate: f64,
}

impl Left {
    /// It left `node`, where it got `rate` Mflop/s.
    pub fn note(&mut self, node: NodeId, rate: f64, now: Duration) {
        self.0.retain(|place| place.node != node && now.saturating_sub(place.at) < MEMORY);
        if self.0.len() >= MOST {
            self.0.remove(0);
        }
        self.0.push(Place { node, at: now, rate });
    }

    /// Why it does not go back to `node`, where it would get `rate` now; `None` when it may.
    pub fn refuse(&self, node: NodeId, rate: f64, now: Duration) -> Option<String> {
        let place = self.0.iter().find(|place| place.node == node)?;
        let ago = now.saturating_sub(place.at);
        let worth = rate.is_finite() && rate >= WORTH * place.rate && ago >= PAUSE;
        if worth || ago >= MEMORY {
            return None;
        }
        let when = match ago.as_secs() {
            seconds @ 0..120 => format!("{seconds} s"),
            seconds => format!("{} min", seconds / 60),
        };
        Some(format!("is where it exceeded its limits {when} ago, and would get it no further now"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId([1; 32]);

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn it_goes_back_only_where_it_is_worth_it_or_long_after() {
        let mut left = Left::default();
        assert_eq!(left.refuse(NODE, 0.0, secs(0)), None);
        left.note(NODE, 1000.0, secs(100));
        let words = left.refuse(NODE, 1200.0, secs(700)).unwrap();
        assert!(words.contains("10 min ago"), "{words}");
        assert!(left.refuse(NODE, 5000.0, secs(120)).is_some(), "not at once");
        assert_eq!(left.refuse(NODE, 1300.0, secs(200)), None);
        assert!(left.refuse(NODE, f64::NAN, secs(700)).is_some());
        assert_eq!(left.refuse(NODE, 0.0, secs(100) + MEMORY), None);
        for other in 0..=255 {
            left.note(NodeId([other; 32]), 1.0, secs(101));
        }
        assert_eq!(left.0.len(), MOST);
    }
}
