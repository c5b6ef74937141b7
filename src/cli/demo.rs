//! `certkeep demo`: the whole main path, on this machine alone.
//!
//! A CA, a TLS server in a process of its own, the agent, and a client that opens connections
//! without pause: each renewal is planned, ordered, installed, loaded and proven, and the client
//! counts what it saw.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::agent::{Agent, Controls, Events, FileStamp};
use crate::cli::{Context, Exit, Stop, run, setup};
use crate::config::Config;
use crate::dev_ca::{DevCa, Hammer, Handshakes, Options, TlsServer, placeholder};
use crate::event::Event;
use crate::report;
use crate::signal::Request;
use crate::text::Count;

/// Show the whole main path on the development CA
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// End after this many renewals; goes on until stopped if not given
    #[arg(long, value_name = "N")]
    renewals: Option<u32>,
    /// How many seconds a certificate is good for
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    #[arg(value_parser = clap::value_parser!(u64).range(10..=86_400))]
    lifetime: u64,
}

pub(crate) fn run(context: &Context, arguments: &Arguments) -> Result<Exit, Stop> {
    let folder = Folder::new()?;
    setup::block_on(show(context, arguments, folder.path()))?
}

async fn show(context: &Context, arguments: &Arguments, folder: &Path) -> Result<Exit, Stop> {
    let http01_port = free_port()?;
    let ca = DevCa::start(
        Options {
            profiles: BTreeMap::from([(
                "default".to_owned(),
                Duration::from_secs(arguments.lifetime),
            )]),
            http01_port,
            ..Options::default()
        },
        Arc::clone(&context.world.clock),
    )
    .await
    .map_err(Stop::unexpected)?;
    crate::store::write_public(&folder.join("root.pem"), ca.root_pem().as_bytes())?;
    let tls = folder.join("tls");
    let (leaf, key) = placeholder(NAME).map_err(Stop::unexpected)?;
    std::fs::create_dir(&tls)?;
    crate::store::write_public(&tls.join("fullchain.pem"), leaf.as_bytes())?;
    crate::store::write_public(&tls.join("privkey.pem"), key.as_bytes())?;
    let server = Server::start(&tls)?;
    let text = configuration(folder, &ca, http01_port, server.address);
    let config_path = folder.join("certkeep.yaml");
    crate::store::write_public(&config_path, text.as_bytes())?;
    let config = Config::parse(&text, &config_path)?;
    let mut shared = setup::shared(context, &config)?;
    let introduction = format!(
        "A CA at {}\nA TLS server at {}, process {}\nThe configuration, {}:\n\n{}\n",
        ca.directory(),
        server.address,
        server.child.id(),
        config_path.display(),
        indented(&text),
    );
    if !context.json {
        context.print(&introduction)?;
        shared.events = with_steps(Arc::clone(&shared.events));
    }
    let (send, signals) = mpsc::channel(4);
    let tally = Tally::new(arguments.renewals, send.clone());
    shared.events = tally.events(Arc::clone(&shared.events));
    let end = CancellationToken::new();
    let client = client(server.address, ca.root_pem(), &tally, end.clone());
    let controls = Controls {
        signals,
        systemd: None,
        config_stamp: FileStamp::of(&config_path),
        config_path,
        read_config: Box::new(move || Ok(config.clone())),
    };
    let config = Config::parse(&text, &folder.join("certkeep.yaml"))?;
    let agent = Agent::new(shared, config).run(controls);
    let forward = async {
        let mut signals = run::signals()?;
        while let Some(signal) = signals.recv().await {
            if send.send(signal).await.is_err() {
                break;
            }
        }
        std::future::pending::<Result<(), Stop>>().await
    };
    let agent = async {
        let done = tokio::select! {
            done = agent => done.map_err(Stop::from),
            stopped = forward => stopped,
        };
        end.cancel();
        done
    };
    let (done, seen) = tokio::join!(agent, client);
    done?;
    ca.stop().await;
    conclude(context, &tally, &seen?)
}

/// Events on their way to the log, which at its usual level has no steps
fn with_steps(onward: Events) -> Events {
    Arc::new(move |event| {
        if let Event::StepBegun { step, .. } = &event {
            // Whoever reads it has read enough.
            writeln!(std::io::stdout().lock(), "    -> {step}").unwrap_or_default();
        }
        onward(event);
    })
}

/// Opens connections without pause, from the first live certificate to the end
async fn client(
    address: SocketAddr,
    root: &str,
    tally: &Tally,
    end: CancellationToken,
) -> Result<Handshakes, Stop> {
    tokio::select! {
        () = tally.first.cancelled() => {}
        () = end.cancelled() => {}
    }
    let hammer = Hammer::start(address, NAME, root).map_err(Stop::unexpected)?;
    end.cancelled().await;
    Ok(hammer.counts())
}

fn conclude(context: &Context, tally: &Tally, seen: &Handshakes) -> Result<Exit, Stop> {
    let renewals = tally.live.load(Ordering::Relaxed).saturating_sub(1);
    let enough = tally.wanted.is_none_or(|wanted| renewals >= wanted);
    let exit = if seen.failed == 0 && enough { Exit::Well } else { Exit::Failed };
    if context.json {
        context.print_json(&Shown {
            version: report::VERSION,
            renewals,
            handshakes: seen.ok + seen.failed,
            failed: seen.failed,
            failures: &seen.failures,
            certificates: seen.by_fingerprint.len(),
        })?;
        return Ok(exit);
    }
    context.print(&format!(
        "\n{}, {} by the client, {} failed, {} seen\n",
        Count(renewals as usize, "renewal"),
        Count(usize::try_from(seen.ok + seen.failed).unwrap_or(usize::MAX), "handshake"),
        seen.failed,
        Count(seen.by_fingerprint.len(), "certificate"),
    ))?;
    for failure in &seen.failures {
        context.print(&format!("    {}\n", crate::text::External::new(failure)))?;
    }
    Ok(exit)
}

/// What is printed with `--json` at the end
#[derive(Serialize)]
struct Shown<'a> {
    version: u32,
    renewals: u32,
    /// How many connections the client opened
    handshakes: u64,
    /// How many of them failed
    failed: u64,
    /// Why the first few did
    failures: &'a [String],
    /// How many certificates the client saw
    certificates: usize,
}

/// Counts what became live, and ends the show after enough of it
struct Tally {
    live: Arc<AtomicU32>,
    first: CancellationToken,
    wanted: Option<u32>,
    stop: mpsc::Sender<Request>,
}

impl Tally {
    fn new(wanted: Option<u32>, stop: mpsc::Sender<Request>) -> Self {
        Self { live: Arc::default(), first: CancellationToken::new(), wanted, stop }
    }

    fn events(&self, onward: Events) -> Events {
        let (live, first) = (Arc::clone(&self.live), self.first.clone());
        let (wanted, stop) = (self.wanted, self.stop.clone());
        Arc::new(move |event| {
            let is_live = matches!(event, Event::Live { .. });
            onward(event);
            if is_live {
                first.cancel();
                let renewals = live.fetch_add(1, Ordering::Relaxed);
                if wanted.is_some_and(|wanted| renewals >= wanted) {
                    // A full queue holds an end already.
                    stop.try_send(Request::Stop("enough was seen")).unwrap_or_default();
                }
            }
        })
    }
}

/// The TLS server, in a process of its own so that its reload is a real one
struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    fn start(folder: &Path) -> Result<Self, Stop> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("demo-server")
            .arg(folder)
            .arg(folder.with_extension("pid"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            // What ends the demo from the terminal ends it last.
            .process_group(0)
            .spawn()?;
        let mut line = String::new();
        if let Some(output) = child.stdout.take() {
            BufReader::new(output).read_line(&mut line)?;
        }
        let address = line.trim().parse().map_err(Stop::unexpected)?;
        Ok(Self { child, address })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Nothing is left to do about a child that is gone already.
        self.child.kill().and_then(|()| self.child.wait().map(drop)).unwrap_or_default();
    }
}

/// What the server's process is told
#[derive(Debug, Args)]
pub(crate) struct ServerArguments {
    folder: PathBuf,
    pid_file: PathBuf,
}

/// Serve what is in a folder, and load it again on SIGHUP
pub(crate) fn serve(arguments: &ServerArguments) -> Result<Exit, Stop> {
    // Without the demo there is no reason for it.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))
        .map_err(std::io::Error::from)?;
    setup::block_on(async {
        let mut signals = run::signals()?;
        let server = TlsServer::start(&arguments.folder).await.map_err(Stop::unexpected)?;
        let pid = format!("{}\n", std::process::id());
        crate::store::write_public(&arguments.pid_file, pid.as_bytes())?;
        let mut output = std::io::stdout().lock();
        writeln!(output, "{}", server.address())?;
        output.flush()?;
        drop(output);
        while let Some(Request::Reload) = signals.recv().await {
            server.reload().map_err(Stop::unexpected)?;
        }
        Ok(Exit::Well)
    })?
}

fn configuration(folder: &Path, ca: &DevCa, http01_port: u16, server: SocketAddr) -> String {
    let (folder, directory, port) = (folder.display(), ca.directory(), server.port());
    format!(
        "state_dir: {folder}/state
allow_volatile_state: true
issuers:
  demo: {{ directory: \"{directory}\", ca_file: {folder}/root.pem, accept_terms: true }}
certificates:
  demo:
    names: [{NAME}]
    challenge: {{ http-01: {{ listen: \"127.0.0.1:{http01_port}\" }} }}
    dir: {folder}/tls
    deploy:
      reload: {{ signal: {{ name: HUP, pid_file: {folder}/tls.pid }} }}
      verify: [ {{ endpoint: \"{NAME}:{port}\", connect: \"{server}\" }} ]
"
    )
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("    {line}\n")).collect()
}

/// A port that was free a moment ago
fn free_port() -> Result<u16, Stop> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?.port())
}

/// A folder for the demo's files, gone when it ends
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self, Stop> {
        let base = std::env::temp_dir();
        for attempt in 0..100 {
            let path = base.join(format!("certkeep-demo-{}-{attempt}", std::process::id()));
            match std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700)
                .create(&path)
            {
                Ok(()) => return Ok(Self(path)),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Stop::unexpected("no folder for the demo could be made"))
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What stays in a temporary directory is harmless.
        std::fs::remove_dir_all(&self.0).unwrap_or_default();
    }
}

/// A name that no resolver is asked for
const NAME: &str = "demo.test";
