//! `certkeep run`: the agent that stays.

use crate::agent::{Agent, Controls, FileStamp};
use crate::cli::{Context, Exit, Stop, read_config, setup};
use crate::signal::{Request, Signals};
use crate::systemd::Systemd;

pub(crate) fn run(context: &Context) -> Result<Exit, Stop> {
    // Before it is read: what changes meanwhile is read again.
    let config_stamp = FileStamp::of(&context.config_path);
    let config = context.config()?;
    setup::refuse_empty(&config)?;
    setup::block_on(async {
        let shared = setup::shared(context, &config)?;
        let Some(_lock) = shared.store.lock_run()? else {
            let shown = config.state_dir.display();
            return Err(Stop::new(
                Exit::Held,
                format!(
                    "another agent runs on {shown}\n  hint: `certkeep status` shows what it does"
                ),
            ));
        };
        let path = context.config_path.clone();
        let controls = Controls {
            signals: signals()?,
            systemd: Some(Systemd::new()),
            config_path: path.clone(),
            config_stamp,
            read_config: Box::new(move || read_config(&path).map_err(|stop| stop.lines())),
        };
        Agent::new(shared, config).run(controls).await?;
        Ok(Exit::Well)
    })?
}

/// The signals of the process, as they come
pub(crate) fn signals() -> Result<tokio::sync::mpsc::Receiver<Request>, Stop> {
    let mut signals = Signals::new()?;
    let (send, receive) = tokio::sync::mpsc::channel(4);
    let forward = async move { while send.send(signals.next().await).await.is_ok() {} };
    // Ends with the process: nobody waits for it, and the runtime drops it.
    #[expect(clippy::disallowed_methods, reason = "it lives as long as the process")]
    tokio::spawn(forward);
    Ok(receive)
}
