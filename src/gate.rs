//! What a certificate must be before anything that works is replaced by it.
//!
//! A chain that no client could use is never let through. A change that the configuration
//! forbids, or a quality that it requires, holds a deployment back for as long as the certificate
//! in place has life: a certificate with the wrong root is better than none.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

use crate::cert::{self, CertError, ForeignName, Leaf};
use crate::config::{ChangeKind, Gate, KeyType, Usage};
use crate::name::Identifier;
use crate::plan::window;
use crate::text::External;
use crate::time::Timestamp;

/// What there is to compare of a chain
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// What its leaf says
    pub leaf: Leaf,
    /// The names of its leaf that no configuration can list
    pub foreign: Vec<ForeignName>,
    /// Who vouches for its last member
    pub root: External,
}

impl Facts {
    /// Of a chain, its leaf first
    ///
    /// # Errors
    /// When there is no certificate in it, or a member cannot be read.
    pub fn of(chain: &[CertificateDer<'_>]) -> Result<Self, CertError> {
        Ok(Self {
            leaf: cert::leaf_of(chain)?,
            foreign: cert::foreign_names_of(chain)?,
            root: cert::root_of(chain)?,
        })
    }
}

/// How a new certificate differs from the one in place, where somebody may depend on it
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "kebab-case")]
pub enum Change {
    /// Names that it no longer vouches for and that no configuration can list
    LostForeignNames {
        /// Which, as the one in place writes them
        names: Vec<External>,
    },
    /// Names that it no longer vouches for
    LostNames {
        /// Which
        names: Vec<Identifier>,
    },
    /// Purposes that it is no longer good for
    LostUsage {
        /// Which
        usage: Vec<Usage>,
    },
    /// It was issued by another intermediate or CA
    OtherIssuer {
        /// Who issued the one in place
        from: External,
        /// Who issued the new one
        to: External,
    },
    /// Its key is of another kind
    OtherKey {
        /// The kind in place, where certkeep makes such keys
        from: Option<KeyType>,
        /// The new kind
        to: Option<KeyType>,
    },
    /// Its chain ends at another root
    OtherRoot {
        /// The root of the one in place
        from: External,
        /// The root of the new one
        to: External,
    },
    /// It is good for less than two thirds of the time
    ShorterLife {
        /// How long the one in place is good for, in seconds
        from: u64,
        /// How long the new one is, in seconds
        to: u64,
    },
}

impl Change {
    /// What the configuration calls it; `None` where it cannot be forbidden, since no new
    /// certificate would ever be without it
    pub const fn kind(&self) -> Option<ChangeKind> {
        match self {
            Self::LostForeignNames { .. } => None,
            Self::LostNames { .. } => Some(ChangeKind::LostNames),
            Self::LostUsage { .. } => Some(ChangeKind::LostUsage),
            Self::OtherIssuer { .. } => Some(ChangeKind::OtherIssuer),
            Self::OtherKey { .. } => Some(ChangeKind::OtherKey),
            Self::OtherRoot { .. } => Some(ChangeKind::OtherRoot),
            Self::ShorterLife { .. } => Some(ChangeKind::ShorterLife),
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = |key: &Option<KeyType>| key.map_or("another kind", KeyType::as_str);
        match self {
            Self::LostForeignNames { names } => {
                write!(f, "no longer for {}, which certkeep cannot order", list(names))
            }
            Self::LostNames { names } => write!(f, "no longer for {}", list(names)),
            Self::LostUsage { usage } => write!(f, "no longer good for {}", list(usage)),
            Self::OtherIssuer { from, to } => write!(f, "issued by `{to}`, before by `{from}`"),
            Self::OtherKey { from, to } => {
                write!(f, "its key is {}, before {}", key(to), key(from))
            }
            Self::OtherRoot { from, to } => {
                write!(f, "its chain ends at `{to}`, before at `{from}`")
            }
            Self::ShorterLife { from, to } => {
                write!(f, "good for {}, before for {}", Span(*to), Span(*from))
            }
        }
    }
}

fn list<T: fmt::Display>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Seconds as people say them
struct Span(u64);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            seconds @ 172_800.. => write!(f, "{} days", seconds / 86_400),
            seconds @ 7_200.. => write!(f, "{} hours", seconds / 3_600),
            seconds => write!(f, "{seconds} seconds"),
        }
    }
}

/// The certificate in place, and whether this configuration has ever asked for it
#[derive(Clone, Copy, Debug)]
pub struct InPlace<'a> {
    /// What it is
    pub facts: &'a Facts,
    /// It was ordered by certkeep: names that it has and the new one has not were dropped by
    /// whoever wrote the configuration
    pub is_ours: bool,
}

/// Everything that changes for those who depend on the certificate in place
pub fn changes(new: &Facts, place: InPlace<'_>) -> Vec<Change> {
    let (old, leaf) = (&place.facts.leaf, &new.leaf);
    let mut changes = Vec::new();
    let covered = |name: &Identifier| leaf.identifiers.iter().any(|ours| ours.covers(name));
    let names: Vec<_> = old.identifiers.iter().filter(|name| !covered(name)).cloned().collect();
    if !names.is_empty() && !place.is_ours {
        changes.push(Change::LostNames { names });
    }
    let names = lost_foreign(place.facts, new);
    if !names.is_empty() {
        changes.push(Change::LostForeignNames { names });
    }
    let usage: Vec<_> = match (&old.usage, &leaf.usage) {
        (_, None) => Vec::new(),
        (None, Some(new)) => Usage::ALL.into_iter().filter(|it| !new.contains(it)).collect(),
        (Some(old), Some(new)) => old.difference(new).copied().collect(),
    };
    if !usage.is_empty() {
        changes.push(Change::LostUsage { usage });
    }
    if old.issuer != leaf.issuer {
        changes.push(Change::OtherIssuer { from: old.issuer.clone(), to: leaf.issuer.clone() });
    }
    if place.facts.root != new.root {
        changes.push(Change::OtherRoot { from: place.facts.root.clone(), to: new.root.clone() });
    }
    if old.key_type != leaf.key_type {
        changes.push(Change::OtherKey { from: old.key_type, to: leaf.key_type });
    }
    let (from, to) = (old.lifetime().as_secs(), leaf.lifetime().as_secs());
    if to < from / 3 * 2 {
        changes.push(Change::ShorterLife { from, to });
    }
    changes
}

fn lost_foreign(old: &Facts, new: &Facts) -> Vec<External> {
    let covered = |name: &ForeignName| {
        let by = |ours: &Identifier| ours.covers_host(name.text.as_str());
        new.foreign.contains(name) || name.is_dns && new.leaf.identifiers.iter().any(by)
    };
    old.foreign.iter().filter(|name| !covered(name)).map(|name| name.text.clone()).collect()
}

/// Why a certificate is not deployed
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// What is wrong with it, as the end of a sentence about it
    pub why: String,
    /// What the operator can do
    pub remedy: String,
    /// When it is deployed all the same; `None`: never
    pub until: Option<Timestamp>,
}

/// Whether a chain may be deployed in place of another
///
/// `roots` are those of the configured store, if one is.
///
/// # Errors
/// When it may not.
pub fn judge(
    now: Timestamp,
    gate: &Gate,
    wanted: &BTreeSet<Identifier>,
    chain: &[CertificateDer<'_>],
    roots: Option<&[CertificateDer<'_>]>,
    place: Option<InPlace<'_>>,
) -> Result<Vec<Change>, Blocked> {
    let never = |why: String| Blocked {
        why,
        remedy: "order another one: certkeep renew --force".to_owned(),
        until: None,
    };
    cert::check_chain(chain, now).map_err(|error| never(error.to_string()))?;
    let new = Facts::of(chain).map_err(|error| never(error.to_string()))?;
    let missing: Vec<_> = wanted.difference(&new.leaf.identifiers).cloned().collect();
    if !missing.is_empty() {
        return Err(never(format!("it is not for {}", list(&missing))));
    }
    if let Some(roots) = roots
        && !cert::leads_to(chain, roots)
    {
        return Err(Blocked {
            remedy: "add the root to the file that `gate.roots` names, or ask another issuer"
                .to_owned(),
            ..never(format!("its chain ends at `{}`, which is not in `gate.roots`", new.root))
        });
    }
    let changes = place.map(|place| changes(&new, place)).unwrap_or_default();
    let mut kinds = changes.iter().filter_map(|change| Some((change, change.kind()?)));
    let forbidden = kinds.find(|(_, kind)| gate.forbid.contains(kind));
    let why = match (forbidden, lacking(gate, &new)) {
        (None, None) => return Ok(changes),
        (Some((change, kind)), _) => {
            (change.to_string(), format!("allow `{}` in `gate.forbid`", kind.as_str()))
        }
        (None, Some(lack)) => (lack, "take it out of `gate.require`".to_owned()),
    };
    let until = match place {
        _ if gate.hard => None,
        Some(place) => Some(window::emergency(&place.facts.leaf)),
        // Nothing that works is replaced.
        None => return Ok(changes),
    };
    if until.is_some_and(|until| until <= now) {
        return Ok(changes);
    }
    let (why, allow) = why;
    Err(Blocked { why, remedy: format!("mend it at the CA, or {allow}"), until })
}

fn lacking(gate: &Gate, new: &Facts) -> Option<String> {
    let lacks: Vec<_> = match &new.leaf.usage {
        None => Vec::new(),
        Some(usage) => gate.require.usage.difference(usage).copied().collect(),
    };
    if !lacks.is_empty() {
        return Some(format!("it is not good for {}", list(&lacks)));
    }
    let lifetime = new.leaf.lifetime();
    let short = gate.require.lifetime.filter(|least: &Duration| lifetime < *least)?;
    let (is, least) = (Span(lifetime.as_secs()), Span(short.as_secs()));
    Some(format!("it is good for {is}, and {least} are required"))
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose,
        IsCa, KeyPair, PKCS_RSA_SHA256, SanType,
    };

    use super::*;
    use crate::config::Require;
    use crate::event::{Event, Level};
    use crate::name::{CertName, TargetName};

    const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);
    const DAY: i64 = 86_400;

    /// A CA, of which each test makes what it needs
    struct Ca {
        root: CertifiedIssuer<'static, KeyPair>,
    }

    impl Ca {
        fn new(name: &str) -> Self {
            let key = KeyPair::generate().unwrap();
            Self { root: CertifiedIssuer::self_signed(Self::params(name), key).unwrap() }
        }

        fn params(name: &str) -> CertificateParams {
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, name);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.not_before = moment(NOW.as_seconds() - 1000 * DAY);
            params.not_after = moment(NOW.as_seconds() + 1000 * DAY);
            params
        }

        /// A chain with its root, good from so many days ago until so many days from now
        fn issue(&self, names: &[&str], from: i64, until: i64, usage: &[Usage]) -> Chain {
            self.issue_for(names, from, until, usage.iter().map(purpose).collect())
        }

        fn issue_for(
            &self,
            names: &[&str],
            from: i64,
            until: i64,
            purposes: Vec<ExtendedKeyUsagePurpose>,
        ) -> Chain {
            let names: Vec<_> = names.iter().map(ToString::to_string).collect();
            let mut params = CertificateParams::new(names).unwrap();
            params.not_before = moment(NOW.as_seconds() - from * DAY);
            params.not_after = moment(NOW.as_seconds() + until * DAY);
            params.extended_key_usages = purposes;
            let key = KeyPair::generate().unwrap();
            let leaf = params.signed_by(&key, &self.root).unwrap();
            vec![leaf.der().clone(), self.root.as_ref().der().clone()]
        }
    }

    type Chain = Vec<CertificateDer<'static>>;

    fn moment(seconds: i64) -> time::OffsetDateTime {
        time::OffsetDateTime::from_unix_timestamp(seconds).unwrap()
    }

    fn purpose(usage: &Usage) -> ExtendedKeyUsagePurpose {
        match usage {
            Usage::ClientAuth => ExtendedKeyUsagePurpose::ClientAuth,
            Usage::CodeSigning => ExtendedKeyUsagePurpose::CodeSigning,
            Usage::EmailProtection => ExtendedKeyUsagePurpose::EmailProtection,
            Usage::ServerAuth => ExtendedKeyUsagePurpose::ServerAuth,
        }
    }

    fn names(names: &[&str]) -> BTreeSet<Identifier> {
        names.iter().map(|name| Identifier::parse(name).unwrap()).collect()
    }

    /// Judge a chain for `a.test` in place of another that somebody else put there
    fn judged(gate: &Gate, new: &Chain, old: Option<&Chain>) -> Result<Vec<ChangeKind>, Blocked> {
        let facts = old.map(|old| Facts::of(old).unwrap());
        let place = facts.as_ref().map(|facts| InPlace { facts, is_ours: false });
        let changes = judge(NOW, gate, &names(&["a.test"]), new, None, place)?;
        Ok(changes.iter().filter_map(Change::kind).collect())
    }

    fn forbidding(kind: ChangeKind) -> Gate {
        Gate { forbid: [kind].into(), ..Gate::default() }
    }

    #[test]
    fn a_chain_that_nobody_could_use_is_never_let_through() {
        let (ca, other) = (Ca::new("ca"), Ca::new("ca"));
        let good = ca.issue(&["a.test"], 1, 89, &[]);
        let dying = ca.issue(&["a.test"], 89, 1, &[]);
        let unlinked = vec![good[0].clone(), other.issue(&["a.test"], 1, 1, &[])[1].clone()];
        let cases = [
            ("expired", ca.issue(&["a.test"], 90, -1, &[])),
            ("not yet", ca.issue(&["a.test"], -2, 90, &[])),
            ("other name", ca.issue(&["b.test"], 1, 89, &[])),
            ("unlinked", unlinked),
            ("nothing", Vec::new()),
        ];
        for (case, chain) in cases {
            let blocked = judged(&Gate::default(), &chain, Some(&dying)).unwrap_err();
            assert_eq!(blocked.until, None, "{case}: {}", blocked.why);
        }
        assert_eq!(judged(&Gate::default(), &good, None), Ok(vec![]));
    }

    #[test]
    fn each_change_is_seen_and_blocks_where_it_is_forbidden() {
        let (ca, other) = (Ca::new("one"), Ca::new("other"));
        let both = [Usage::ServerAuth, Usage::ClientAuth];
        let old = ca.issue(&["a.test", "b.test"], 30, 60, &both);
        let same = |names: &[&str], until, usage: &[Usage]| ca.issue(names, 0, until, usage);
        let all = ["a.test", "b.test"];
        let cases = [
            (vec![ChangeKind::LostNames], same(&["a.test"], 90, &both)),
            (vec![], same(&["a.test", "*.test"], 90, &both)),
            (vec![ChangeKind::LostUsage], same(&all, 90, &[Usage::ServerAuth])),
            (vec![ChangeKind::ShorterLife], same(&all, 45, &both)),
            (vec![], same(&all, 64, &both)),
            (vec![ChangeKind::OtherIssuer, ChangeKind::OtherRoot], other.issue(&all, 0, 90, &both)),
        ];
        for (changes, new) in cases {
            assert_eq!(judged(&Gate::default(), &new, Some(&old)), Ok(changes.clone()));
            for kind in changes {
                let blocked = judged(&forbidding(kind), &new, Some(&old)).unwrap_err();
                let emergency = NOW.after(Duration::from_secs(60 * 86_400 - 90 * 86_400 / 12));
                assert_eq!(blocked.until, Some(emergency), "{}", blocked.why);
                assert!(blocked.remedy.contains(kind.as_str()), "{}", blocked.remedy);
            }
        }
        let anything = ca.issue(&all, 30, 60, &[]);
        let lost = judged(&Gate::default(), &same(&all, 90, &both), Some(&anything));
        assert_eq!(lost, Ok(vec![ChangeKind::LostUsage]));
        let facts = Facts::of(&old).unwrap();
        let ours = InPlace { facts: &facts, is_ours: true };
        let fewer = Facts::of(&same(&["a.test"], 90, &both)).unwrap();
        assert_eq!(changes(&fewer, ours), [], "the configuration dropped the name");
    }

    #[test]
    fn another_kind_of_key_is_seen() {
        let ca = Ca::new("ca");
        let old = ca.issue(&["a.test"], 1, 89, &[]);
        let key = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
        let mut params = CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
        params.not_before = moment(NOW.as_seconds());
        params.not_after = moment(NOW.as_seconds() + 90 * DAY);
        let leaf = params.signed_by(&key, &ca.root).unwrap();
        let new = vec![leaf.der().clone(), old[1].clone()];
        assert_eq!(judged(&Gate::default(), &new, Some(&old)), Ok(vec![ChangeKind::OtherKey]));
    }

    #[test]
    fn what_is_required_is_looked_for() {
        let ca = Ca::new("ca");
        let server = ca.issue(&["a.test"], 0, 10, &[Usage::ServerAuth]);
        let stamps = ca.issue_for(&["a.test"], 0, 10, vec![ExtendedKeyUsagePurpose::TimeStamping]);
        let anything = ca.issue(&["a.test"], 0, 10, &[]);
        let old = ca.issue(&["a.test"], 1, 89, &[]);
        let usage = Require { usage: [Usage::ClientAuth].into(), lifetime: None };
        let lifetime =
            Require { lifetime: Some(Duration::from_secs(11 * 86_400)), ..Require::default() };
        let requiring = |require: &Require| Gate { require: require.clone(), ..Gate::default() };
        for (require, chain, is_let_through) in [
            (&usage, &server, false),
            (&usage, &stamps, false),
            (&usage, &anything, true),
            (&lifetime, &server, false),
            (&lifetime, &old, true),
        ] {
            let judged = judged(&requiring(require), chain, Some(&old));
            assert_eq!(judged.is_ok(), is_let_through, "{judged:?}");
        }
    }

    #[test]
    fn a_block_ends_with_what_it_protects_unless_it_is_hard() {
        let ca = Ca::new("ca");
        let new = ca.issue(&["a.test"], 0, 10, &[]);
        let dying = ca.issue(&["a.test"], 85, 5, &[]);
        let soft = forbidding(ChangeKind::ShorterLife);
        let hard = Gate { hard: true, ..soft.clone() };
        assert!(judged(&soft, &new, Some(&dying)).is_ok());
        assert_eq!(judged(&hard, &new, Some(&dying)).unwrap_err().until, None);
        let lifetime = Some(Duration::from_secs(11 * 86_400));
        let require = Require { lifetime, ..Require::default() };
        let soft = Gate { require, ..Gate::default() };
        assert!(judged(&soft, &new, None).is_ok(), "there is nothing that works");
        let hard = Gate { hard: true, ..soft };
        assert_eq!(judged(&hard, &new, None).unwrap_err().until, None);
    }

    #[test]
    fn a_chain_leads_to_one_of_the_roots_or_is_refused() {
        let (ca, other) = (Ca::new("ca"), Ca::new("ca"));
        let chain = ca.issue(&["a.test"], 0, 10, &[]);
        let roots = |ca: &Ca| vec![ca.root.as_ref().der().clone()];
        let judged = |chain: &[CertificateDer<'_>], roots: &Chain| {
            judge(NOW, &Gate::default(), &names(&["a.test"]), chain, Some(roots), None).is_ok()
        };
        assert!(judged(&chain, &roots(&ca)));
        assert!(judged(&chain[..1], &roots(&ca)), "without the root in the chain");
        assert!(!judged(&chain, &roots(&other)), "a root of the same name");
        assert!(!judged(&chain, &Vec::new()));
    }
    #[test]
    fn a_chain_that_ends_with_a_cross_signed_root_leads_to_that_root() {
        let (old, new, other) = (Ca::new("old"), Ca::new("new"), Ca::new("new"));
        let root = new.root.as_ref().der().clone();
        let cross = Ca::params("new").signed_by(new.root.key(), &old.root).unwrap();
        let leaf = new.issue(&["a.test"], 0, 10, &[]).remove(0);
        let chain = vec![leaf, cross.der().clone()];
        let roots = vec![root.clone()];
        let judged = |roots: &Chain| {
            judge(NOW, &Gate::default(), &names(&["a.test"]), &chain, Some(roots), None)
        };
        assert_eq!(judged(&roots), Ok(vec![]));
        assert_eq!(judged(&vec![old.root.as_ref().der().clone()]), Ok(vec![]));
        assert!(judged(&vec![other.root.as_ref().der().clone()]).is_err(), "the same name");
        let foreign = other.issue(&["a.test"], 0, 10, &[]).remove(0);
        assert!(!cert::leads_to(&[foreign, root], &roots), "not followed past a broken link");
    }

    #[test]
    fn lost_names_that_nobody_can_order_are_told_and_hold_nothing_back() {
        let ca = Ca::new("ca");
        let names = ["a.test", "b_c.test", "a*.w.test", "d_e.w.test"].map(str::to_owned);
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = moment(NOW.as_seconds() - 30 * DAY);
        params.not_after = moment(NOW.as_seconds() + 60 * DAY);
        params.subject_alt_names.extend([
            SanType::Rfc822Name("f@g.w.test".try_into().unwrap()),
            SanType::URI("h:\u{1b}[2J".try_into().unwrap()),
        ]);
        let leaf = params.signed_by(&KeyPair::generate().unwrap(), &ca.root).unwrap();
        let old = vec![leaf.der().clone(), ca.root.as_ref().der().clone()];
        let told = |new: &Chain| {
            let facts = Facts::of(&old).unwrap();
            let place = InPlace { facts: &facts, is_ours: false };
            let gate = Gate { hard: true, ..forbidding(ChangeKind::LostNames) };
            let changes = judge(NOW, &gate, &self::names(&["a.test"]), new, None, Some(place));
            let event = Event::Differs {
                certificate: CertName::parse("site").unwrap(),
                target: TargetName::parse("default").unwrap(),
                generation: 1,
                changes: changes.unwrap(),
            };
            (event.level(), event.to_string())
        };
        let new = ca.issue(&["a.test", "*.w.test"], 0, 90, &[]);
        let (level, text) = told(&new);
        let names = "no longer for b_c.test, f@g.w.test, h:\\u{1b}[2J, which certkeep cannot order";
        assert!(text.ends_with(names), "{text}");
        assert_eq!((level, told(&old).0), (Level::Warning, Level::Info));
    }
}
