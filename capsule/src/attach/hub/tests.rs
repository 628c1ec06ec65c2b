//! A hub between terminals and an app that is away.

use std::time::Duration;

use super::*;
use crate::attach::{ToShim, ToTerminal};
use crate::relay::link::Link;
use crate::relay::{Event, Relay};
use crate::wire::{self, MAX_TERMINAL_BYTES};

const SIZE: TermSize = TermSize { rows: 24, cols: 80 };
const DEADLINE: Duration = Duration::from_secs(10);

/// The app's side of the relay.
struct Far {
    relay: Relay,
    link: Link,
}

impl Far {
    async fn of(hub: &Hub) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        hub.away(Epoch(2)).await;
        hub.stream(theirs, Epoch(2)).await;
        let mut relay = Relay::new();
        relay.connected();
        Self { relay, link: Link::new(ours) }
    }

    /// What comes from home until `last` has been typed.
    async fn until(&mut self, last: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        loop {
            assert!(self.link.flush(&mut self.relay));
            let frame = tokio::time::timeout(DEADLINE, self.link.next()).await.unwrap().unwrap();
            self.relay.handle(frame).unwrap();
            while let Some(event) = self.relay.poll_event() {
                let done = matches!(&event, Event::Bytes(bytes) if bytes == last);
                if let Event::Bytes(bytes) = &event {
                    self.relay.taken(bytes.len());
                }
                events.push(event);
                if done {
                    return events;
                }
            }
        }
    }
}

/// A terminal attaches and types something once it was shown something.
async fn attach(hub: &Hub, typed: &[u8]) -> (UnixStream, Vec<u8>) {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    hub.attach(theirs).await;
    let shown = wire::read(&mut ours, MAX_TERMINAL_BYTES);
    let shown = tokio::time::timeout(DEADLINE, shown).await.unwrap().unwrap();
    let Some(ToTerminal::Data(shown)) = shown else { panic!("not shown anything: {shown:?}") };
    for message in [ToShim::Hello(SIZE), ToShim::Data(typed.to_vec())] {
        wire::write(&mut ours, &message, MAX_TERMINAL_BYTES).await.unwrap();
    }
    (ours, shown)
}

fn sizes(events: &[Event]) -> Vec<u16> {
    events
        .iter()
        .filter_map(|event| match event {
            Event::Resize(size) => Some(size.rows),
            _ => None,
        })
        .collect()
}

#[tokio::test]
async fn a_full_screen_is_drawn_anew_for_those_who_have_not_seen_it() {
    let (hub, _events) = Hub::start(SIZE);
    let mut far = Far::of(&hub).await;
    far.relay.push(b"\x1b[?1049hdrawn");
    assert!(far.link.flush(&mut far.relay));

    let (_first, shown) = attach(&hub, b"1").await;
    let seen = sizes(&far.until(b"1").await);
    assert!(seen.iter().all(|rows| *rows == 24), "{seen:?} for one that was shown all: {shown:?}");

    let (_second, shown) = attach(&hub, b"2").await;
    assert_eq!(shown, b"\x1b[?1049h\x1b[H\x1b[2J");
    let seen = sizes(&far.until(b"2").await);
    assert_eq!(seen, [23, 24]);
}

#[tokio::test]
async fn terminals_hear_of_the_end_from_the_owner_alone() {
    let (hub, mut events) = Hub::start(SIZE);
    let mut far = Far::of(&hub).await;
    let (mut terminal, _) = attach(&hub, b"1").await;
    far.until(b"1").await;
    far.relay.push(b"bye");
    far.relay.set_exit(7);
    assert!(far.link.flush(&mut far.relay));
    assert_eq!(events.recv().await, Some(HubEvent::EndedAway(7)));
    hub.ended(7).await;
    let mut heard = Vec::new();
    while let Ok(Some(message)) = wire::read::<ToTerminal>(&mut terminal, MAX_TERMINAL_BYTES).await
    {
        heard.push(message);
    }
    assert_eq!(heard, [ToTerminal::Data(b"bye".to_vec()), ToTerminal::Exit(7)]);
}
