//! Kernel programs that watch capsules, and their loader.
