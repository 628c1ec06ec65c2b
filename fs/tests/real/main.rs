//! A home's files by way of the kernel: what programs see, and what happens when something breaks.

mod common;
mod errno;
mod faults;
mod hostile;
mod os;
mod process;
mod rights;
mod system;
mod tools;
