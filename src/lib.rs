//! Keeps a host's TLS certificates alive.
//!
//! The map of the rooms is in `ARCHITECTURE.md`; the core below decides and does nothing, the
//! shell does and decides nothing.

// The core: no I/O, no clock, no `async`.
pub mod cert;
pub mod config;
pub mod event;
pub mod failure;
pub mod gate;
pub mod name;
pub mod pem;
pub mod plan;
pub mod record;
pub mod report;
pub mod secret;
pub mod text;
pub mod time;
pub mod token;

// The shell: one room per outside world.
pub mod acme;
pub mod challenge;
pub mod clock;
pub mod deploy;
pub mod dev_ca;
pub mod log;
pub mod probe;
pub mod resolver;
pub mod signal;
pub mod store;
pub mod systemd;
pub mod watch;

// What puts them together.
pub mod agent;
pub mod cli;
