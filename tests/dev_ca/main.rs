//! The dev CA through its URLs: with instant-acme, and with requests made by hand.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod faults;
mod flows;
mod hostile;
mod peers;
mod renewal;
mod support;
