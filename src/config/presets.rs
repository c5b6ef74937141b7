//! CAs that have a name.

/// A public CA's ACME directory
#[derive(Clone, Copy, Debug)]
pub(super) struct Preset {
    /// What `directory:` calls it
    pub(super) name: &'static str,
    /// The URL of its directory
    pub(super) directory: &'static str,
    /// What `directory:` calls the CA's directory for tests; itself for one that is
    pub(super) staging: Option<&'static str>,
    /// Where the CA publishes its terms; the directory's `meta.termsOfService` is the binding one
    pub(super) terms: Option<&'static str>,
}

/// The preset of this name
pub(super) fn preset(name: &str) -> Option<&'static Preset> {
    PRESETS.iter().find(|preset| preset.name == name)
}

/// Every preset
///
/// SSL.com has a directory for each kind of key; ours is the one for the default, ECDSA.
pub(super) const PRESETS: [Preset; 7] = [
    Preset {
        name: "letsencrypt",
        directory: "https://acme-v02.api.letsencrypt.org/directory",
        staging: Some("letsencrypt-staging"),
        terms: Some("https://letsencrypt.org/repository/"),
    },
    Preset {
        name: "letsencrypt-staging",
        directory: "https://acme-staging-v02.api.letsencrypt.org/directory",
        staging: Some("letsencrypt-staging"),
        terms: Some("https://letsencrypt.org/repository/"),
    },
    Preset {
        name: "zerossl",
        directory: "https://acme.zerossl.com/v2/DV90",
        staging: None,
        terms: None,
    },
    Preset {
        name: "google",
        directory: "https://dv.acme-v02.api.pki.goog/directory",
        staging: Some("google-staging"),
        terms: Some("https://pki.goog/repository/"),
    },
    Preset {
        name: "google-staging",
        directory: "https://dv.acme-v02.test-api.pki.goog/directory",
        staging: Some("google-staging"),
        terms: Some("https://pki.goog/repository/"),
    },
    Preset {
        name: "sslcom",
        directory: "https://acme.ssl.com/sslcom-dv-ecc",
        staging: None,
        terms: Some("https://www.ssl.com/repository/"),
    },
    Preset {
        name: "actalis",
        directory: "https://acme-api.actalis.com/acme/directory",
        staging: None,
        terms: None,
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_preset_is_the_directory_that_its_ca_documents() {
        let all: Vec<_> = PRESETS.iter().map(|it| (it.name, it.directory)).collect();
        let documented = [
            ("letsencrypt", "https://acme-v02.api.letsencrypt.org/directory"),
            ("letsencrypt-staging", "https://acme-staging-v02.api.letsencrypt.org/directory"),
            ("zerossl", "https://acme.zerossl.com/v2/DV90"),
            ("google", "https://dv.acme-v02.api.pki.goog/directory"),
            ("google-staging", "https://dv.acme-v02.test-api.pki.goog/directory"),
            ("sslcom", "https://acme.ssl.com/sslcom-dv-ecc"),
            ("actalis", "https://acme-api.actalis.com/acme/directory"),
        ];
        assert_eq!(all, documented);
    }
}
