//! Samples and limits in, verdicts out.
