//! A short piece of work that a node gives another to see how fast it is: what it says of itself
//! need not be true, the time it takes is.

use std::time::Duration;

/// Steps of one piece: some milliseconds of one core. A busy machine does it in one go; one that gives
/// only a part of its time, in slices of a millisecond, does not within a single slice.
pub const STEPS: u32 = 1_200_000;
/// Pieces that are given to find a speed; the quickest counts.
pub const PIECES: u32 = 5;
/// Floating-point operations of one step: four logistic maps of three each.
const FLOPS: f64 = 12.0;

/// The result of `steps` steps from `seed`. IEEE 754 makes it the same on every machine, chaos makes
/// it nothing that could be guessed.
pub fn work(seed: u64, steps: u32) -> [u64; 4] {
    let part = |shift: u32| {
        let bits = seed.rotate_left(shift) ^ 0x9e37_79b9_7f4a_7c15;
        0.1 + 0.8 * (bits >> 11) as f64 / (1u64 << 53) as f64
    };
    let mut x = [part(0), part(16), part(32), part(48)];
    for _ in 0..steps {
        for one in &mut x {
            *one = 3.99 * *one * (1.0 - *one);
        }
    }
    x.map(f64::to_bits)
}

/// Million floating-point operations a second of who did a piece in that time.
pub fn mflops(steps: u32, took: Duration) -> f64 {
    f64::from(steps) * FLOPS / took.as_secs_f64().max(1e-9) / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_result_is_the_same_everywhere_and_needs_all_steps() {
        assert_eq!(work(1, 1000), work(1, 1000));
        assert_ne!(work(1, 1000), work(2, 1000));
        assert_ne!(work(1, 1000), work(1, 999));
        assert!(work(7, 10_000).iter().all(|bits| f64::from_bits(*bits).is_finite()));
        assert!((mflops(1_000_000, Duration::from_millis(10)) - 1200.0).abs() < 1e-6);
    }
}
