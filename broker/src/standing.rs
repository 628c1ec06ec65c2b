//! How far what a node says of itself can be trusted: what was measured counts more.

/// How much the newest result counts.
const NEWEST: f64 = 0.4;
/// The least share that a node is believed to keep of what it promises, so that it can mend its
/// reputation.
const LEAST: f64 = 0.05;
/// A speed that was not measured counts up to this many times the asking node's own.
const UNPROVEN: f64 = 1.5;

/// What was found of a node.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Standing {
    /// Speed of one core by a piece of work it was given, in Mflop/s.
    measured_mflops: Option<f64>,
    /// What apps got there of the cores it promised, as a share.
    kept: f64,
}

impl Default for Standing {
    /// Nothing was found yet: it is believed.
    fn default() -> Self {
        Self { measured_mflops: None, kept: 1.0 }
    }
}

impl Standing {
    /// It has done a piece of work so fast.
    pub fn observe_work(&mut self, mflops: f64) {
        if mflops.is_finite() && mflops > 0.0 {
            // A slow answer may be the way's fault, a quick one is not: the best counts, and fades.
            let known = self.measured_mflops.unwrap_or(0.0);
            let faded = known + NEWEST * (mflops - known);
            self.measured_mflops = Some(if mflops > known { mflops } else { faded });
        }
    }

    /// An app that would have used `wanted` cores, of which the node had promised `promised`, got
    /// `got`.
    pub fn observe_result(&mut self, promised: f64, wanted: f64, got: f64) {
        let expected = promised.min(wanted);
        let share = got / expected;
        if expected > 0.05 && share.is_finite() {
            self.kept += NEWEST * (share.clamp(LEAST, 1.0) - self.kept);
        }
    }

    /// The speed of one core to count on, when it says `claimed` and the asking node has `own`.
    pub fn mflops(&self, claimed: f64, own: f64) -> f64 {
        let claimed = if claimed.is_finite() { claimed.max(0.0) } else { 0.0 };
        match self.measured_mflops {
            // Work that arrives while it is busy looks slow: it may be a little faster than seen.
            Some(measured) => claimed.min(measured * 1.2),
            None => claimed.min(own * UNPROVEN),
        }
    }

    /// Whether it should be given work again soon: it did that much slower than it says, but its being
    /// busy for a moment looks the same.
    pub fn is_doubtful(&self, claimed: f64) -> bool {
        self.measured_mflops.is_some_and(|measured| claimed.is_finite() && measured < claimed / 2.0)
    }

    /// What apps got of what it promised, 0 to 1.
    pub fn kept(&self) -> f64 {
        self.kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_liar_is_found_out_by_its_work_and_by_what_apps_got() {
        let mut liar = Standing::default();
        assert!((liar.mflops(1e9, 1000.0) - 1500.0).abs() < 1e-9, "not believed before");
        liar.observe_work(400.0);
        assert!((liar.mflops(1e9, 1000.0) - 480.0).abs() < 1e-9);
        assert!((liar.kept() - 1.0).abs() < 1e-9);
        for _ in 0..8 {
            liar.observe_result(64.0, 2.0, 0.1);
        }
        assert!(liar.kept() < 0.08, "{}", liar.kept());
        for _ in 0..20 {
            liar.observe_result(2.0, 2.0, 2.0);
        }
        assert!(liar.kept() > 0.95, "it can mend its reputation");
    }

    #[test]
    fn who_was_slow_once_is_looked_at_again() {
        let mut standing = Standing::default();
        assert!(!standing.is_doubtful(1000.0), "nothing was found yet");
        standing.observe_work(100.0);
        assert!(standing.is_doubtful(1000.0) && !standing.is_doubtful(f64::INFINITY));
        standing.observe_work(900.0);
        assert!(!standing.is_doubtful(1000.0));
    }

    #[test]
    fn absurd_numbers_count_for_nothing() {
        let mut standing = Standing::default();
        for absurd in [f64::NAN, f64::INFINITY, -1.0, 0.0] {
            standing.observe_work(absurd);
            standing.observe_result(absurd, absurd, absurd);
        }
        assert_eq!(standing, Standing::default());
        assert_eq!(standing.mflops(f64::NAN, 1000.0), 0.0);
    }
}
