//! The system's resolver, which takes a thread for as long as it likes.
//!
//! It is given few of the threads that the disk needs too, and each that asks has its own few: a
//! name that hangs at one holds up no other.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

/// Those who ask, each with so many lookups at once
#[derive(Debug)]
pub struct Asker(Semaphore);

impl Asker {
    /// The addresses of a name, each with this port
    ///
    /// The resolver has ten seconds, twice what it gives one of its servers; a turn is waited for
    /// as long as it takes.
    ///
    /// # Errors
    /// When the resolver knows none, or does not answer.
    pub async fn look_up(&'static self, name: String, port: u16) -> io::Result<Vec<SocketAddr>> {
        let turn = self.0.acquire().await.map_err(io::Error::other)?;
        let looked = spawn_blocking(move || {
            // Kept also when nobody waits any more.
            let _turn = turn;
            (name.as_str(), port).to_socket_addrs().map(Vec::from_iter)
        });
        match timeout(PATIENCE, looked).await {
            Ok(looked) => looked.map_err(io::Error::other)?,
            Err(_elapsed) => Err(io::Error::other("no answer")),
        }
    }
}

/// Whoever is about to ask a CA
pub static CA: Asker = Asker(Semaphore::const_new(CA_TURNS));

/// Whoever looks at endpoints
pub static ENDPOINT: Asker = Asker(Semaphore::const_new(ENDPOINT_TURNS));

/// Whoever asks a server to load its files
pub static SERVER: Asker = Asker(Semaphore::const_new(SERVER_TURNS));

const PATIENCE: Duration = Duration::from_secs(10);

/// How many names are looked up at once, whoever asks
pub const TURNS: usize = CA_TURNS + ENDPOINT_TURNS + SERVER_TURNS;

const CA_TURNS: usize = 4;
const ENDPOINT_TURNS: usize = 6;
const SERVER_TURNS: usize = 2;
