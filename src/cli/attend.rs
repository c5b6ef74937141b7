//! Work that an operator waits for: its steps on a terminal, and what Ctrl-C does to it.

use std::cell::OnceCell;
use std::sync::Arc;

use tokio::sync::mpsc::Receiver;

use crate::agent::Shared;
use crate::cli::progress::Progress;
use crate::cli::{Context, Exit, Stop, run};
use crate::event::Event;
use crate::signal::Request;
use crate::text::External;

/// The first signal that came, after which nothing is begun
#[derive(Default)]
pub(crate) struct Stopped(OnceCell<&'static str>);

impl Stopped {
    pub(crate) fn by(&self) -> Option<&'static str> {
        self.0.get().copied()
    }
}

/// Do it, and show how far it is; what the first signal finds begun comes to its end, a second
/// one cuts it off with the commands that run for it
pub(crate) async fn attended<T>(
    context: &Context,
    mut shared: Shared,
    work: impl AsyncFnOnce(&Shared, &Stopped) -> Result<T, Stop>,
) -> Result<T, Stop> {
    let progress = Progress::new(context);
    shared.events = progress.events(Arc::clone(&shared.events));
    let mut signals = run::signals()?;
    let stopped = Stopped::default();
    let interrupted = async {
        let by = stop(&mut signals).await;
        stopped.0.get_or_init(|| by);
        let message =
            format!("{by}: what has begun is brought to its end; a second one cuts it off");
        let message = External::new(message);
        shared.tell(Event::Warned { certificate: None, message });
        stop(&mut signals).await
    };
    let work = async {
        tokio::select! {
            done = work(&shared, &stopped) => done,
            by = interrupted => {
                let message = format!("stopped by {by}; it goes on next time");
                Err(Stop::new(Exit::Failed, message))
            }
        }
    };
    progress.show_while(work).await
}

async fn stop(signals: &mut Receiver<Request>) -> &'static str {
    match signals.recv().await {
        Some(Request::Stop(by)) => by,
        // Whoever looked at it has gone.
        Some(Request::Reload) | None => "SIGHUP",
    }
}
