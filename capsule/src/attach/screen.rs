//! What a terminal that attaches later must be shown: the last output, and whether the app has
//! the whole screen for itself.

use std::collections::VecDeque;

/// Output kept for the next terminal.
const KEPT_BYTES: usize = 128 << 10;
/// From here on the output waits for the first terminal, which is shown all of it. What is in the
/// app's terminal when it ends fits in the rest.
const BRIM_BYTES: usize = 32 << 10;
/// Of which this much is shown again.
const SHOWN_BYTES: usize = 16 << 10;
/// What turns the alternate screen on and off (xterm's private modes 1049, 1047 and 47).
const SWITCHES: [(&[u8], bool); 6] = [
    (b"\x1b[?1049h", true),
    (b"\x1b[?1049l", false),
    (b"\x1b[?1047h", true),
    (b"\x1b[?1047l", false),
    (b"\x1b[?47h", true),
    (b"\x1b[?47l", false),
];
const LONGEST_SWITCH: usize = 8;

/// The memory of the output.
#[derive(Debug, Default)]
pub struct Screen {
    kept: VecDeque<u8>,
    full_screen: bool,
    /// Something was printed that is not kept any more.
    forgot: bool,
}

impl Screen {
    /// Notes what was printed.
    pub fn feed(&mut self, bytes: &[u8]) {
        // A switch may lie across the border of two reads.
        let overlap = self.kept.len().saturating_sub(LONGEST_SWITCH - 1);
        let mut text: Vec<u8> = self.kept.range(overlap..).copied().collect();
        let old = text.len();
        text.extend_from_slice(bytes);
        for end in old + 1..=text.len() {
            if text[end - 1] != b'h' && text[end - 1] != b'l' {
                continue;
            }
            if let Some((_, on)) = SWITCHES.iter().find(|(code, _)| text[..end].ends_with(code)) {
                self.full_screen = *on;
            }
        }
        self.kept.extend(bytes);
        let excess = self.kept.len().saturating_sub(KEPT_BYTES);
        self.kept.drain(..excess);
        self.forgot |= excess > 0;
    }

    /// Whether the first terminal should come before more is printed.
    pub fn is_brimful(&self) -> bool {
        self.kept.len() >= BRIM_BYTES
    }

    /// All there was, if that is still known.
    pub fn everything(&self) -> Option<Vec<u8>> {
        (!self.forgot).then(|| self.kept.iter().copied().collect())
    }

    /// Whether the app has the whole screen; then it must be asked to draw it anew.
    pub fn is_full(&self) -> bool {
        self.full_screen
    }

    /// What to show to a terminal that attaches now.
    pub fn replay(&self) -> Vec<u8> {
        if self.full_screen {
            return b"\x1b[?1049h\x1b[H\x1b[2J".to_vec();
        }
        let from = self.kept.len().saturating_sub(SHOWN_BYTES);
        let mut shown: Vec<u8> = self.kept.range(from..).copied().collect();
        if from > 0 {
            // Begin with a whole line, not in the middle of a character or a control sequence.
            let line = shown.iter().position(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            shown.drain(..line);
        }
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alternate_screen_is_seen_even_in_pieces() {
        let mut screen = Screen::default();
        for byte in b"text\x1b[?1049hmore" {
            screen.feed(&[*byte]);
        }
        assert!(screen.is_full());
        screen.feed(b"bye\x1b[?10");
        screen.feed(b"49l$ ");
        assert!(!screen.is_full());
    }

    #[test]
    fn the_first_terminal_is_shown_all() {
        let mut screen = Screen::default();
        screen.feed(b"\x1b[?1049h");
        while !screen.is_brimful() {
            screen.feed(&[b'x'; 1000]);
        }
        // The last output of an app that ends without a terminal.
        screen.feed(&[b'y'; 64 << 10]);
        let shown = screen.everything().unwrap();
        assert!(shown.starts_with(b"\x1b[?1049hx") && shown.ends_with(b"y"));
        screen.feed(&[b'z'; KEPT_BYTES]);
        assert_eq!(screen.everything(), None);
    }

    #[test]
    fn a_replay_begins_with_a_whole_line() {
        let mut screen = Screen::default();
        for number in 0..10_000 {
            screen.feed(format!("line {number}\r\n").as_bytes());
        }
        let shown = String::from_utf8(screen.replay()).unwrap();
        assert!(shown.starts_with("line ") && shown.ends_with("line 9999\r\n"));
        assert!(shown.len() <= SHOWN_BYTES);
    }
}
