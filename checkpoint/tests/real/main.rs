//! Tests with the real kernel and the real CRIU, as root. `PHANTOM_CRIU` names the program to use.

mod canary;
mod common;
mod faults;
mod hostile;
mod inspect;
mod moves;
