//! What servers serve that begin without TLS, asked of those from Debian.
//!
//! Each test starts one of its own, with its own configuration, in a folder of its own.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod support;

use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use certkeep::config::{Address, Endpoint, StartTls};
use certkeep::name::Identifier;
use certkeep::probe::{ProbeError, Prober, Wanted};
use support::pair::Pair;
use support::process::Daemon;
use support::{PATIENCE, folder, free_port, loopback, program, wait_until, write};
use tempfile::TempDir;

/// What a server is started with
struct Place {
    folder: TempDir,
    pair: Pair,
    address: SocketAddr,
}

impl Place {
    fn new() -> Self {
        let (folder, ip) = (folder(), loopback());
        let pair =
            Pair { fullchain: folder.path().join("a.pem"), key: folder.path().join("a.key") };
        pair.placeholder("a.test");
        std::fs::set_permissions(&pair.key, std::fs::Permissions::from_mode(0o600)).unwrap();
        Self { folder, pair, address: SocketAddr::new(ip, free_port(ip)) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn directory(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    /// A file with these words, `FOLDER`, `CHAIN`, `KEY`, `IP` and `PORT` replaced in them
    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        let shown = |path: &Path| path.display().to_string();
        let text = text
            .replace("FOLDER", &shown(self.folder.path()))
            .replace("CHAIN", &shown(&self.pair.fullchain))
            .replace("KEY", &shown(&self.pair.key))
            .replace("IP", &self.address.ip().to_string())
            .replace("PORT", &self.address.port().to_string());
        write(&path, text);
        path
    }

    fn start(&self, command: &mut Command) -> Server {
        self.start_on(&[self.address.port()], command)
    }

    /// Start the server, and return when it accepts connections on all of these ports
    fn start_on(&self, ports: &[u16], command: &mut Command) -> Server {
        let daemon = Daemon::start(command, &self.path("output.log")).unwrap();
        let addresses = ports.iter().map(|port| (self.address.ip(), *port).into()).collect();
        let mut server = Server { daemon, addresses };
        for address in &server.addresses {
            wait_until(&format!("{command:?} accepts"), PATIENCE, || {
                let ended = server.daemon.ended();
                assert!(ended.is_none(), "{command:?} ended: {}", server.daemon.log());
                TcpStream::connect(address).ok()
            });
        }
        server
    }

    async fn outcome(&self, protocol: StartTls) -> Result<(), ProbeError> {
        self.outcome_at(self.address.port(), protocol).await
    }

    /// See the certificate, or say why there is none
    async fn outcome_at(&self, port: u16, protocol: StartTls) -> Result<(), ProbeError> {
        let leaf = self.pair.leaf();
        let endpoint = Endpoint {
            host: Identifier::parse("a.test").unwrap(),
            port,
            connect: Some(Address::Tcp((self.address.ip(), port).into())),
            starttls: Some(protocol),
            samples: 2,
            within: PATIENCE,
        };
        let wanted = Wanted { leaf: leaf.fingerprint, key: leaf.key_type, previous: None };
        let prober = Prober::new();
        let mut seen = prober.probe(&endpoint, PATIENCE).await.unwrap();
        seen.remove(0).outcome?;
        assert_eq!(prober.verify(&endpoint, wanted).await, Ok(1));
        Ok(())
    }
}

/// A server with processes of its own, which a kill would leave behind
struct Server {
    daemon: Daemon,
    addresses: Vec<SocketAddr>,
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.daemon.ended().is_none() {
            self.daemon.terminate(PATIENCE);
        }
        // Its processes may outlive it for a moment, and with them its ports.
        for address in &self.addresses {
            wait_until("nobody accepts", PATIENCE, || TcpStream::connect(address).err());
        }
    }
}

/// A program that will not run as root, or would become somebody else if it did
fn as_nobody(program: &Path) -> Command {
    let mut command = Command::new(support::program("unshare"));
    command.args(["--map-user=65534", "--map-group=65534"]).arg(program);
    command
}

fn postgres(name: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    versions
        .map(|version| version.unwrap().path().join("bin").join(name))
        .find(|path| path.is_file())
        .unwrap_or_else(|| panic!("{name} is missing: run tests/peers"))
}

#[tokio::test]
async fn postfix_is_seen_over_smtp() {
    let place = Place::new();
    let (data, queue) = (place.directory("data"), place.directory("queue"));
    let owner = std::fs::metadata("/var/lib/postfix").unwrap();
    // Postfix runs as root, and its parts as a user of their own.
    chown(&data, Some(std::os::unix::fs::MetadataExt::uid(&owner)), None).unwrap();
    let settings = |level: &str| {
        format!(
            "compatibility_level = 3.6\nqueue_directory = FOLDER/queue\n\
             data_directory = FOLDER/data\nmyhostname = a.test\nmydestination =\nalias_maps =\nlocal_recipient_maps =\n\
             maillog_file = FOLDER/mail.log\nmaillog_file_prefixes = FOLDER\n\
             inet_protocols = ipv4\nsmtpd_peername_lookup = no\n\
             smtpd_tls_security_level = {level}\nsmtpd_tls_chain_files = KEY, CHAIN\n"
        )
    };
    place.file("main.cf", &settings("may"));
    place.file(
        "master.cf",
        "IP:PORT inet n - n - - smtpd\nrewrite unix - - n - - trivial-rewrite\n\
         cleanup unix n - n - 0 cleanup\ntlsmgr unix - - n 1000? 1 tlsmgr\n\
         anvil unix - - n - 1 anvil\npostlog unix-dgram n - n - 1 postlogd\n",
    );
    let check =
        Command::new(program("postfix")).arg("-c").arg(place.folder.path()).arg("check").output();
    let said = String::from_utf8_lossy(&check.as_ref().unwrap().stderr).into_owned();
    assert!(check.unwrap().status.success() && queue.join("private").is_dir(), "{said}");
    let mut master = Command::new("/usr/lib/postfix/sbin/master");
    master.arg("-c").arg(place.folder.path()).arg("-d");
    let server = place.start(&mut master);
    assert_eq!(place.outcome(StartTls::Smtp).await, Ok(()));
    drop(server);
    place.file("main.cf", &settings("none"));
    let _server = place.start(&mut master);
    assert_eq!(place.outcome(StartTls::Smtp).await, Err(ProbeError::NoStartTls));
}

#[tokio::test]
async fn dovecot_is_seen_over_imap_pop3_and_sieve() {
    let place = Place::new();
    let ports: Vec<_> = (0..3).map(|_| free_port(place.address.ip())).collect();
    let [imap, pop3, sieve] = ports.try_into().unwrap();
    let service = |login: &str, listener: &str, port: u16| {
        format!(
            "service {login}-login {{\n chroot =\n inet_listener {listener} {{\n port = {port}\n \
             }}\n inet_listener {listener}s {{\n port = 0\n }}\n}}\n"
        )
    };
    let settings = |ssl: &str| {
        format!(
            "base_dir = FOLDER/run\nstate_dir = FOLDER/run\nlog_path = /dev/stderr\nlisten = IP\n\
             protocols = imap pop3 sieve\ndefault_internal_user = nobody\n\
             default_internal_group = nogroup\ndefault_login_user = nobody\n\
             ssl = {ssl}\nssl_cert = <CHAIN\nssl_key = <KEY\nservice anvil {{\n chroot =\n}}\n\
             passdb {{\n driver = static\n}}\nuserdb {{\n driver = static\n}}\n{}{}{}",
            service("imap", "imap", imap),
            service("pop3", "pop3", pop3),
            service("managesieve", "sieve", sieve),
        )
    };
    place.directory("run");
    let file = place.file("dovecot.conf", &settings("yes"));
    let mut dovecot = as_nobody(&program("dovecot"));
    dovecot.arg("-F").arg("-c").arg(file);
    let all = [(imap, StartTls::Imap), (pop3, StartTls::Pop3), (sieve, StartTls::Sieve)];
    let server = place.start_on(&[imap, pop3, sieve], &mut dovecot);
    for (port, protocol) in all {
        assert_eq!(place.outcome_at(port, protocol).await, Ok(()), "{protocol:?}");
    }
    drop(server);
    place.file("dovecot.conf", &settings("no"));
    let _server = place.start_on(&[imap, pop3, sieve], &mut dovecot);
    for (port, protocol) in all {
        let outcome = place.outcome_at(port, protocol).await.unwrap_err();
        let none = matches!(outcome, ProbeError::NoStartTls | ProbeError::StartTlsRefused(_));
        assert!(none, "{protocol:?}: {outcome}");
    }
}

#[tokio::test]
async fn postgresql_is_seen() {
    let place = Place::new();
    let data = place.path("data");
    let output =
        as_nobody(&postgres("initdb")).args(["--no-sync", "-A", "trust", "-D"]).arg(&data).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let settings = |ssl: &str| {
        format!(
            "listen_addresses = 'IP'\nport = PORT\nunix_socket_directories = ''\nfsync = off\n\
             ssl = {ssl}\nssl_cert_file = 'CHAIN'\nssl_key_file = 'KEY'\n"
        )
    };
    place.file("data/postgresql.conf", &settings("on"));
    let mut postgres = as_nobody(&postgres("postgres"));
    postgres.arg("-D").arg(&data);
    let server = place.start(&mut postgres);
    assert_eq!(place.outcome(StartTls::Postgres).await, Ok(()));
    drop(server);
    place.file("data/postgresql.conf", &settings("off"));
    let _server = place.start(&mut postgres);
    assert_eq!(place.outcome(StartTls::Postgres).await, Err(ProbeError::NoStartTls));
}

#[tokio::test]
async fn mariadb_is_seen() {
    let place = Place::new();
    place.directory("data");
    let settings = "[mariadbd]\ndatadir = FOLDER/data\nbind_address = IP\nport = PORT\n\
                    socket = FOLDER/socket\npid_file = FOLDER/pid\nskip_grant_tables\n\
                    skip_networking = 0\nskip_innodb\ndefault_storage_engine = Aria\n";
    let file = place.file("my.cnf", &format!("{settings}ssl_cert = CHAIN\nssl_key = KEY\n"));
    let mut mariadb = as_nobody(&program("mariadbd"));
    mariadb.arg(format!("--defaults-file={}", file.display()));
    let server = place.start(&mut mariadb);
    assert_eq!(place.outcome(StartTls::Mysql).await, Ok(()));
    drop(server);
    place.file("my.cnf", settings);
    let _server = place.start(&mut mariadb);
    assert_eq!(place.outcome(StartTls::Mysql).await, Err(ProbeError::NoStartTls));
}

#[tokio::test]
async fn openldap_is_seen() {
    let place = Place::new();
    let settings = "TLSCertificateFile CHAIN\nTLSCertificateKeyFile KEY\n";
    let file = place.file("slapd.conf", settings);
    let mut slapd = Command::new(program("slapd"));
    slapd.args(["-d", "0", "-h", &format!("ldap://{}", place.address), "-f"]).arg(file);
    let server = place.start(&mut slapd);
    assert_eq!(place.outcome(StartTls::Ldap).await, Ok(()));
    drop(server);
    place.file("slapd.conf", "");
    let _server = place.start(&mut slapd);
    assert_eq!(place.outcome(StartTls::Ldap).await, Err(ProbeError::NoStartTls));
}

#[tokio::test]
async fn prosody_is_seen_over_xmpp() {
    let place = Place::new();
    place.directory("data");
    let settings = |ssl: &str| {
        format!(
            "run_as_root = true\npidfile = 'FOLDER/pid'\ndata_path = 'FOLDER/data'\n\
             interfaces = {{ 'IP' }}\nc2s_ports = {{ PORT }}\nc2s_direct_tls_ports = {{}}\n\
             modules_enabled = {{ 'saslauth', 'tls' }}\nmodules_disabled = {{ 's2s' }}\n\
             allow_unencrypted_plain_auth = true\nc2s_require_encryption = false\n\
             log = {{ {{ levels = {{ min = 'info' }}, to = 'console' }} }}\n\
             VirtualHost 'a.test'\n{ssl}\n"
        )
    };
    let file = place.file("prosody.lua", &settings("ssl = { certificate = 'CHAIN', key = 'KEY' }"));
    let mut prosody = Command::new(program("prosody"));
    prosody.arg("-F").arg("--config").arg(file);
    let server = place.start(&mut prosody);
    assert_eq!(place.outcome(StartTls::Xmpp).await, Ok(()));
    drop(server);
    place.file("prosody.lua", &settings("modules_disabled = { 'tls' }"));
    let _server = place.start(&mut prosody);
    assert_eq!(place.outcome(StartTls::Xmpp).await, Err(ProbeError::NoStartTls));
}

#[tokio::test]
async fn vsftpd_is_seen_over_ftp() {
    let place = Place::new();
    place.directory("empty");
    let settings = |ssl: &str| {
        format!(
            "listen=YES\nbackground=NO\nlisten_address=IP\nlisten_port=PORT\n\
             run_as_launching_user=YES\nseccomp_sandbox=NO\nsecure_chroot_dir=FOLDER/empty\n\
             vsftpd_log_file=FOLDER/ftp.log\nssl_enable={ssl}\nrsa_cert_file=CHAIN\n\
             rsa_private_key_file=KEY\n"
        )
    };
    let file = place.file("vsftpd.conf", &settings("YES"));
    let mut vsftpd = Command::new(program("vsftpd"));
    vsftpd.arg(file);
    let server = place.start(&mut vsftpd);
    assert_eq!(place.outcome(StartTls::Ftp).await, Ok(()));
    drop(server);
    place.file("vsftpd.conf", &settings("NO"));
    let _server = place.start(&mut vsftpd);
    let outcome = place.outcome(StartTls::Ftp).await;
    assert!(matches!(outcome, Err(ProbeError::StartTlsRefused(_))), "{outcome:?}");
}
