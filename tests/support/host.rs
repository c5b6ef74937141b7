//! A host whose one certificate goes to several targets in several formats, with a check, a
//! reload and an endpoint; and what OpenSSL thinks of its files.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::pebble::{Pebble, pebble};
use super::site::Site;
use super::{loopback, program, read, write};

/// How a target keeps its files; also the name of the target
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// `files:` behind symlinks
    Links,
    /// `files:` as regular files
    Copies,
    /// `dir:`
    Folder,
}

/// What each target has
pub(crate) const OUTPUTS: [Output; 5] = [
    Output::pem("fullchain", "certs/site.pem", "fullchain.pem"),
    Output::pem("key", "keys/site.key", "privkey.pem"),
    Output::pem("combined", "both.pem", "combined.pem"),
    Output { content: "der-cert", file: "certs/site.der", in_folder: None },
    Output { content: "pkcs12", file: "site.p12", in_folder: None },
];

/// A file of a target
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    /// What the checker calls its content
    pub(crate) content: &'static str,
    pub(crate) file: &'static str,
    /// The name that a `dir:` has for it; that has PEM only
    pub(crate) in_folder: Option<&'static str>,
}

impl Output {
    const fn pem(content: &'static str, file: &'static str, in_folder: &'static str) -> Self {
        Self { content, file, in_folder: Some(in_folder) }
    }
}

impl Layout {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Links => "links",
            Self::Copies => "copies",
            Self::Folder => "folder",
        }
    }
}

/// What the reload takes
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loads {
    Everything,
    /// What is there now, and nothing else
    OnlyThese,
}

/// A host with a certificate that is live, and the CA that issued it
pub(crate) struct Host {
    pub(crate) ca: Pebble,
    pub(crate) site: Site,
    pub(crate) layouts: &'static [Layout],
    /// Where a server has what the reload gave it, if somebody looks
    endpoint: Option<SocketAddr>,
}

impl Host {
    /// A host whose certificate `site` was renewed so often that the next time an old generation
    /// goes
    pub(crate) fn new(layouts: &'static [Layout]) -> Self {
        Self::make(layouts, false)
    }

    /// The same with a server that has to be seen to serve it
    pub(crate) fn with_endpoint(layouts: &'static [Layout]) -> Self {
        Self::make(layouts, true)
    }

    fn make(layouts: &'static [Layout], is_seen: bool) -> Self {
        let ca = pebble().start();
        let site = Site::new(&ca);
        let endpoint = is_seen.then(|| serve(site.path().join(LOADED)));
        let host = Self { ca, site, layouts, endpoint };
        write(host.root(), host.ca.root());
        write(host.password(), PASSWORD);
        std::fs::set_permissions(host.password(), PermissionsExt::from_mode(0o600)).unwrap();
        host.write_reload(Loads::Everything);
        host.configure(rustix::process::geteuid().as_raw());
        host.site.renew();
        for _ in 0..7 {
            host.site.certkeep(&["renew", "--force"]).succeeds();
        }
        host
    }

    /// Write the configuration, with this user as the owner of the outputs
    pub(crate) fn configure(&self, owner: u32) {
        let mut text = "site:\n  names: [a.test]\n  targets:\n".to_owned();
        for (place, layout) in self.layouts.iter().enumerate() {
            let name = layout.name();
            text += &format!(
                "  - name: {name}\n    deploy:\n      check: [{}, x509, -noout, -in, {}]\n      \
                 reload: [{}]\n",
                program("openssl").display(),
                self.outputs(self.layouts[0])[0].1.display(),
                self.reload().display()
            );
            // What the server loads is the pair of the first.
            if let (0, Some(endpoint)) = (place, self.endpoint) {
                text += &format!(
                    "      verify: [{{ endpoint: \"a.test:443\", connect: \"{}\", within: 30s, \
                     samples: 1 }}]\n",
                    endpoint
                );
            }
            let owner = format!("owner: \"{owner}\"");
            if *layout == Layout::Folder {
                let inside = OUTPUTS.iter().filter(|output| output.in_folder.is_some());
                let contents = inside.map(|output| output.content).collect::<Vec<_>>().join(", ");
                text +=
                    &format!("    dir: {{ path: TLS/{name}, contents: [{contents}], {owner} }}\n");
                continue;
            }
            text += &format!("    copy: {}\n    files:\n", *layout == Layout::Copies);
            for (content, path) in self.outputs(*layout) {
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                let path = path.display();
                let what = match content {
                    "der-cert" => "content: cert, format: der".to_owned(),
                    "pkcs12" => {
                        format!("format: pkcs12, password_file: {}", self.password().display())
                    }
                    _ => format!("content: {content}"),
                };
                text += &format!("    - {{ path: {path}, {what}, {owner} }}\n");
            }
        }
        self.site.configure(&text);
    }

    /// The outputs of a target, each with its content; not only PEM in the long form of the tests
    pub(crate) fn outputs(&self, layout: Layout) -> Vec<(&'static str, PathBuf)> {
        let folder = self.site.tls().join(layout.name());
        let is_full = std::env::var_os("CERTKEEP_TESTS").is_some();
        let all = OUTPUTS.into_iter().filter(|output| is_full || output.in_folder.is_some());
        let there = all.filter_map(|Output { content, file, in_folder }| {
            let file = if layout == Layout::Folder { in_folder? } else { file };
            Some((content, folder.join(file)))
        });
        there.collect()
    }

    /// The journal of a target of regular files
    pub(crate) fn journal(&self, layout: Layout) -> PathBuf {
        self.site.state().join(format!("certificates/site/journal-{}.json", layout.name()))
    }

    /// A file with the CA's root
    pub(crate) fn root(&self) -> PathBuf {
        self.site.path().join("root.pem")
    }

    /// The file with the password of the outputs that have one
    fn password(&self) -> PathBuf {
        self.site.path().join("password")
    }

    pub(crate) fn reload(&self) -> PathBuf {
        self.site.path().join("reload")
    }

    /// A reload that notes what a server loads
    pub(crate) fn write_reload(&self, loads: Loads) {
        let refusal = match loads {
            Loads::Everything => String::new(),
            Loads::OnlyThese => format!("[ \"$seen\" = '{}' ]\n", self.seen()),
        };
        let first = self.outputs(self.layouts[0]);
        let script = format!(
            "#!/bin/sh\nset -e\nseen=$(cat {} | sha256sum)\n{refusal}\
             cat {} {} >{loaded}.$$\nmv {loaded}.$$ {loaded}\necho \"$seen\" >>{}\n",
            self.all_outputs().join(" "),
            first[0].1.display(),
            first[1].1.display(),
            self.site.path().join("reloads").display(),
            loaded = self.site.path().join(LOADED).display(),
        );
        write(self.reload(), script);
        std::fs::set_permissions(self.reload(), PermissionsExt::from_mode(0o755)).unwrap();
    }

    /// What the reload sees now
    fn seen(&self) -> String {
        let output = Command::new("sh")
            .args(["-c", "cat \"$@\" | sha256sum", "sh"])
            .args(self.all_outputs())
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    /// Put regular files in place of whatever the paths lead through
    pub(crate) fn flatten(&self) {
        for path in self.all_outputs() {
            let bytes = std::fs::read(&path).unwrap();
            let mode = std::fs::metadata(&path).unwrap().permissions();
            std::fs::remove_file(&path).unwrap();
            write(&path, bytes);
            std::fs::set_permissions(&path, mode).unwrap();
        }
    }

    fn all_outputs(&self) -> Vec<String> {
        let all = self.layouts.iter().flat_map(|layout| self.outputs(*layout));
        all.map(|(_, path)| path.display().to_string()).collect()
    }

    /// Fail unless the last reload was on the files that are there now
    #[track_caller]
    pub(crate) fn assert_loaded(&self, story: &dyn std::fmt::Display) {
        let reloads = read(self.site.path().join("reloads"));
        assert_eq!(reloads.lines().last(), Some(self.seen().as_str()), "not loaded: {story}");
    }

    /// Fail unless OpenSSL finds whole pairs in every target
    ///
    /// After an interruption a journal excuses a target of regular files.
    #[track_caller]
    pub(crate) fn assert_sound(&self, is_interrupted: bool, story: &dyn std::fmt::Display) {
        for layout in self.layouts {
            let excused = *layout == Layout::Copies && is_interrupted;
            let journal = if excused { self.journal(*layout) } else { PathBuf::new() };
            let judged = invariants(&self.root(), &journal, &self.outputs(*layout));
            assert_eq!(judged, Ok(()), "{layout:?}: {story}");
        }
    }

    /// Fail if anything is left of a renewal that ended
    #[track_caller]
    pub(crate) fn assert_tidy(&self, story: &dyn std::fmt::Display) {
        assert_eq!(left_over(self.site.path()), [""; 0], "{story}");
    }
}

/// What the reload gives the server: chain and key
const LOADED: &str = "loaded.pem";

/// A TLS server that has what was loaded last, until the process ends
fn serve(loaded: PathBuf) -> SocketAddr {
    let listener = TcpListener::bind((loopback(), 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // Of who goes away in the middle, nothing is wanted.
            drop(greet(stream, &loaded));
        }
    });
    address
}

fn greet(mut stream: TcpStream, loaded: &Path) -> Result<(), Box<dyn std::error::Error>> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let pem = std::fs::read(loaded)?;
    let chain = CertificateDer::pem_slice_iter(&pem).collect::<Result<_, _>>()?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_slice(&pem)?)?;
    let mut tls = rustls::ServerConnection::new(Arc::new(config))?;
    tls.complete_io(&mut stream)?;
    // The client closes first, so that no port waits for stray segments.
    std::io::Read::read(&mut stream, &mut [0; 64])?;
    Ok(())
}

/// What the checker says of a target's outputs, each with its content
///
/// It looks at nothing but the bytes and modes, so what was found sound is not looked at again.
pub(crate) fn invariants(
    root: &Path,
    journal: &Path,
    outputs: &[(&str, PathBuf)],
) -> Result<(), String> {
    static SOUND: Mutex<BTreeSet<Vec<Judged>>> = Mutex::new(BTreeSet::new());
    let judged = judged(root, journal, outputs).ok();
    if judged.as_ref().is_some_and(|judged| SOUND.lock().unwrap().contains(judged)) {
        return Ok(());
    }
    let outputs = outputs.iter().map(|(content, path)| format!("{content}:{}", path.display()));
    let mut checker = Command::new(beside("invariants"));
    checker.arg(root).arg(journal).args(outputs).env("INVARIANTS_PASSWORD", PASSWORD);
    let output = checker.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        return Err(said);
    }
    SOUND.lock().unwrap().extend(judged);
    Ok(())
}

/// What a file is to be, its mode, and its bytes
type Judged = (String, u32, Vec<u8>);

/// All that the checker looks at
fn judged(
    root: &Path,
    journal: &Path,
    outputs: &[(&str, PathBuf)],
) -> std::io::Result<Vec<Judged>> {
    let journal = if journal.exists() { "excused" } else { "" };
    let mut judged = vec![(journal.to_owned(), 0, std::fs::read(root)?)];
    for (content, path) in outputs {
        let mode = std::fs::metadata(path)?.permissions().mode();
        judged.push(((*content).to_owned(), mode, std::fs::read(path)?));
    }
    Ok(judged)
}

/// What encrypts an output that must be encrypted
pub(crate) const PASSWORD: &str = "secret";

/// A file of the tests
pub(crate) fn beside(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name)
}

fn left_over(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut switched = 0;
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        let unfinished = name.starts_with(".certkeep-")
            || name.starts_with("journal-")
            || name.contains(".corrupt")
            || name == "order.json";
        // The one in force, and the one before it for its readers.
        switched += usize::from(name.starts_with("..0"));
        if unfinished || switched > 2 {
            found.push(entry.path().display().to_string());
        }
        if entry.file_type().unwrap().is_dir() {
            found.extend(left_over(&entry.path()));
        }
    }
    found
}
