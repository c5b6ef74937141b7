//! What others think of a certificate and a key on disk: OpenSSL and nginx.

use std::path::{Path, PathBuf};
use std::process::Command;

use certkeep::cert::Leaf;

use super::{nginx, program, read};

/// A certificate with its chain and its key, in two files
#[derive(Clone, Debug)]
pub(crate) struct Pair {
    /// The leaf and the intermediates
    pub(crate) fullchain: PathBuf,
    /// The key
    pub(crate) key: PathBuf,
}

impl Pair {
    /// The pair in a directory that certkeep lays out
    pub(crate) fn in_dir(folder: &Path) -> Self {
        Self { fullchain: folder.join("fullchain.pem"), key: folder.join("privkey.pem") }
    }

    /// Put regular files in place of whatever leads to the content
    #[track_caller]
    pub(crate) fn flatten(&self) {
        for path in [&self.fullchain, &self.key] {
            let (text, mode) = (read(path), std::fs::metadata(path).unwrap().permissions());
            std::fs::remove_file(path).unwrap();
            super::write(path, text);
            std::fs::set_permissions(path, mode).unwrap();
        }
    }

    /// The leaf
    #[track_caller]
    pub(crate) fn leaf(&self) -> Leaf {
        Leaf::from_pem(read(&self.fullchain).as_bytes()).unwrap()
    }

    /// The leaf alone, PEM
    #[track_caller]
    pub(crate) fn leaf_pem(&self) -> String {
        let chain = read(&self.fullchain);
        let end = chain.find(END).unwrap() + END.len();
        format!("{}\n", &chain[..end])
    }

    /// How many certificates there are in the chain, with the leaf
    #[track_caller]
    pub(crate) fn length(&self) -> usize {
        read(&self.fullchain).matches(END).count()
    }

    /// Fail unless key and leaf belong together and nginx would load them
    #[track_caller]
    pub(crate) fn assert_sound(&self) {
        let of_leaf = openssl(&["x509", "-noout", "-pubkey", "-in"], &self.fullchain);
        let of_key = openssl(&["pkey", "-pubout", "-in"], &self.key);
        assert_eq!(of_leaf, of_key, "key and certificate do not match: {self:?}");
        nginx::loads(&self.fullchain, &self.key).unwrap();
    }

    /// Fail unless the chain leads to this root, PEM
    #[track_caller]
    pub(crate) fn assert_leads_to(&self, root: &str) {
        let folder = super::folder();
        let root_file = folder.path().join("root.pem");
        super::write(&root_file, root);
        let verify = ["verify", "-CAfile", root_file.to_str().unwrap(), "-untrusted"];
        let chain = self.fullchain.to_str().unwrap();
        openssl(&[&verify[..], &[chain]].concat(), &self.fullchain);
    }

    /// Lay down a pair that nobody issued, so that a server can start
    pub(crate) fn placeholder(&self, name: &str) {
        let key = rcgen::KeyPair::generate().unwrap();
        let leaf = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        super::write(&self.fullchain, leaf.self_signed(&key).unwrap().pem());
        super::write(&self.key, key.serialize_pem());
    }

    /// Lay down a pair as another client may have got it: from a CA, and good for so many seconds
    /// of which so many are left
    pub(crate) fn lay_down_another_client_s(&self, names: &[&str], lifetime: i64, left: i64) {
        use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
        let now = time::OffsetDateTime::now_utc();
        let mut ca = CertificateParams::new(Vec::new()).unwrap();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.distinguished_name.push(DnType::CommonName, "another client's CA");
        let ca_key = KeyPair::generate().unwrap();
        let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        let mut leaf = CertificateParams::new(names).unwrap();
        leaf.not_after = now + time::Duration::seconds(left);
        leaf.not_before = leaf.not_after - time::Duration::seconds(lifetime);
        let key = KeyPair::generate().unwrap();
        let leaf = leaf.signed_by(&key, &Issuer::new(ca, ca_key)).unwrap();
        super::write(&self.fullchain, leaf.pem() + &ca_pem);
        super::write(&self.key, key.serialize_pem());
    }
}

const END: &str = "-----END CERTIFICATE-----";

#[track_caller]
fn openssl(arguments: &[&str], file: &Path) -> String {
    let output = Command::new(program("openssl")).args(arguments).arg(file).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "openssl {arguments:?} {}: {said}", file.display());
    String::from_utf8(output.stdout).unwrap()
}
