use proptest::prelude::*;

use super::*;

/// Two sides and the stream between them, which loses what is on its way when it is cut.
#[derive(Default)]
struct World {
    user: Relay,
    app: Relay,
    to_app: VecDeque<Frame>,
    to_user: VecDeque<Frame>,
    at_app: Vec<u8>,
    at_user: Vec<u8>,
    /// Received by the app side, not yet written to the terminal.
    waiting: usize,
    unwritten: Vec<u8>,
    exit: Option<i32>,
}

impl World {
    fn connect(&mut self) {
        self.cut();
        self.user.connected();
        self.app.connected();
    }

    fn cut(&mut self) {
        self.to_app.clear();
        self.to_user.clear();
        self.user.disconnected();
        self.app.disconnected();
    }

    fn pump(&mut self, frames: usize) {
        for _ in 0..frames {
            self.to_app.extend(self.user.poll_frame());
            self.to_user.extend(self.app.poll_frame());
            if let Some(frame) = self.to_app.pop_front() {
                self.app.handle(frame).unwrap();
            }
            if let Some(frame) = self.to_user.pop_front() {
                self.user.handle(frame).unwrap();
            }
            while let Some(event) = self.app.poll_event() {
                if let Event::Bytes(bytes) = event {
                    self.waiting += bytes.len();
                    self.unwritten.extend(bytes);
                }
            }
            while let Some(event) = self.user.poll_event() {
                match event {
                    Event::Bytes(bytes) => {
                        self.user.taken(bytes.len());
                        self.at_user.extend(bytes);
                    }
                    Event::Exit(code) => self.exit = Some(code),
                    _ => {}
                }
            }
        }
    }

    /// The app's terminal takes some of what waits.
    fn write(&mut self, count: usize) {
        let count = count.min(self.waiting);
        self.at_app.extend(self.unwritten.drain(..count));
        self.waiting -= count;
        self.app.taken(count);
    }

    /// The app goes to another host: only its state goes along.
    fn move_away(&mut self) {
        self.cut();
        self.waiting = 0;
        self.unwritten.clear();
        let state = postcard::to_stdvec(&self.app.state()).unwrap();
        self.app = Relay::from_state(postcard::from_bytes(&state).unwrap());
    }

    /// Takes steps; all that was typed and printed in them.
    fn live(&mut self, steps: Vec<Step>) -> (Vec<u8>, Vec<u8>) {
        let (mut typed, mut printed) = (Vec::new(), Vec::new());
        for step in steps {
            match step {
                Step::Type(bytes) => {
                    self.user.push(&bytes);
                    typed.extend(bytes);
                }
                Step::Print(bytes) => {
                    self.app.push(&bytes);
                    printed.extend(bytes);
                }
                Step::Pump(frames) => self.pump(frames),
                Step::Write(count) => self.write(count),
                Step::Cut => self.cut(),
                Step::Connect => self.connect(),
                Step::Move => self.move_away(),
            }
        }
        (typed, printed)
    }
}

#[derive(Debug, Clone)]
enum Step {
    Type(Vec<u8>),
    Print(Vec<u8>),
    Pump(usize),
    Write(usize),
    Cut,
    Connect,
    Move,
}

fn step() -> impl Strategy<Value = Step> {
    let bytes = || prop::collection::vec(any::<u8>(), 1..40);
    prop_oneof![
        4 => bytes().prop_map(Step::Type),
        4 => bytes().prop_map(Step::Print),
        6 => (1usize..6).prop_map(Step::Pump),
        4 => (1usize..64).prop_map(Step::Write),
        1 => Just(Step::Cut),
        2 => Just(Step::Connect),
        1 => Just(Step::Move),
    ]
}

proptest! {
    #[test]
    fn every_byte_arrives_once_and_in_order(steps in prop::collection::vec(step(), 1..200)) {
        let mut world = World::default();
        let (typed, printed) = world.live(steps);
        world.app.set_exit(7);
        world.connect();
        for _ in 0..1000 {
            world.pump(4);
            world.write(usize::MAX);
        }
        prop_assert_eq!(&world.at_app, &typed);
        prop_assert_eq!(&world.at_user, &printed);
        prop_assert!(world.user.is_drained() && world.app.is_drained());
        prop_assert_eq!(world.exit, Some(7));
    }

    #[test]
    fn a_move_home_loses_nothing(
        steps in prop::collection::vec(step(), 1..100),
    ) {
        let mut world = World::default();
        let (typed, printed) = world.live(steps);
        let (output, input) = world.user.absorb(&world.app.state()).unwrap();
        world.at_user.extend(output);
        world.at_app.extend(input);
        prop_assert_eq!(&world.at_app, &typed);
        prop_assert_eq!(&world.at_user, &printed);
    }

    #[test]
    fn a_copy_that_is_given_up_keeps_only_what_it_took(
        steps in prop::collection::vec(step(), 1..100),
    ) {
        let mut world = World::default();
        let mut typed = Vec::new();
        for step in steps {
            match step {
                Step::Type(bytes) => { world.user.push(&bytes); typed.extend(bytes); }
                Step::Print(bytes) => world.app.push(&bytes),
                Step::Pump(frames) => world.pump(frames),
                Step::Write(count) => world.write(count),
                Step::Cut => world.cut(),
                Step::Connect => world.connect(),
                Step::Move => world.move_away(),
            }
        }
        let untaken = world.user.into_untaken();
        prop_assert!(typed.ends_with(&untaken));
        prop_assert!(world.at_app.len() + untaken.len() >= typed.len());
    }

    #[test]
    fn a_hostile_side_never_makes_it_panic(
        frames in prop::collection::vec((0u8..6, any::<u64>(), 0usize..100), 0..40),
    ) {
        let mut relay = Relay::new();
        relay.push(b"some output");
        relay.connected();
        for (kind, number, length) in frames {
            let frame = match kind {
                0 => Frame::Hello { wanted: number % 20, taken: number % 12 },
                1 => Frame::Data { offset: number % 200, bytes: vec![0; length], taken: number % 15 },
                2 => Frame::Data { offset: number, bytes: vec![0; length], taken: number },
                3 => Frame::Taken(number),
                4 => Frame::Exit(number as i32),
                _ => Frame::ExitTaken,
            };
            let _ = relay.handle(frame);
            while relay.poll_frame().is_some() {}
            while let Some(event) = relay.poll_event() {
                if let Event::Bytes(bytes) = event {
                    relay.taken(bytes.len());
                }
            }
        }
    }
}

#[test]
fn a_flood_beyond_the_window_is_refused() {
    let mut relay = Relay::new();
    relay.connected();
    relay.handle(Frame::Hello { wanted: 0, taken: 0 }).unwrap();
    let bytes = vec![0; WINDOW_BYTES];
    let data =
        |offset: usize| Frame::Data { offset: offset as u64, bytes: bytes.clone(), taken: 0 };
    relay.handle(data(0)).unwrap();
    relay.handle(data(WINDOW_BYTES)).unwrap();
    assert!(relay.handle(data(2 * WINDOW_BYTES)).is_err());
}
