//! What a person sees while work goes on: which certificate, which step, since when.

use std::collections::BTreeMap;
use std::future::Future;
use std::io::{self, Write as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::agent::Events;
use crate::cli::Context;
use crate::event::Event;
use crate::failure::Step;
use crate::name::CertName;
use crate::time::{Clock, Rough, Timestamp};

/// A line at the foot of the terminal; nothing at all when nobody watches
pub(crate) struct Progress {
    working: Arc<Mutex<BTreeMap<CertName, (Step, Timestamp)>>>,
    clock: Arc<dyn Clock>,
    watched: bool,
}

impl Progress {
    pub(crate) fn new(context: &Context) -> Self {
        Self {
            working: Arc::default(),
            clock: Arc::clone(&context.world.clock),
            watched: context.is_watched(),
        }
    }

    /// Events on their way to the log, with an eye on the steps
    pub(crate) fn events(&self, onward: Events) -> Events {
        if !self.watched {
            return onward;
        }
        let (working, clock) = (Arc::clone(&self.working), Arc::clone(&self.clock));
        Arc::new(move |event| {
            {
                let mut working = working.lock().unwrap_or_else(PoisonError::into_inner);
                match &event {
                    Event::StepBegun { certificate, step } => {
                        working.insert(certificate.clone(), (*step, clock.now()));
                    }
                    Event::Issued { certificate, .. }
                    | Event::Live { certificate, .. }
                    | Event::Failed { certificate, .. } => {
                        working.remove(certificate);
                    }
                    _ => {}
                }
                write(CLEAR);
            }
            onward(event);
        })
    }

    /// Show the line, anew every half second, until the work is done
    pub(crate) async fn show_while<T>(&self, work: impl Future<Output = T>) -> T {
        if !self.watched {
            return work.await;
        }
        let mut turns = tokio::time::interval(Duration::from_millis(500));
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => {
                    write(CLEAR);
                    return done;
                }
                _ = turns.tick() => write(&format!("{CLEAR}{}", self.line())),
            }
        }
    }

    fn line(&self) -> String {
        let working = self.working.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((name, (step, since))) = working.iter().min_by_key(|(_, (_, since))| *since)
        else {
            return String::new();
        };
        let time = Rough(self.clock.now().since(*since));
        let others = match working.len() - 1 {
            0 => String::new(),
            n => format!(", and {n} more"),
        };
        let line = format!("{name}: {step} since {time}{others}");
        line.chars().take(79).collect()
    }
}

/// Back to the start of the line, and nothing left on it
const CLEAR: &str = "\r\u{1b}[K";

/// A terminal that cannot be written to is no reason to stop
fn write(text: &str) {
    let mut terminal = io::stderr().lock();
    terminal.write_all(text.as_bytes()).and_then(|()| terminal.flush()).unwrap_or_default();
}
