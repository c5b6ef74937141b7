//! Every mistake in the form of a text, found by reading it again and again without what was wrong.
//!
//! serde stops at the first mistake. Here that one is written down, its value is dropped from the
//! tree, and the rest is read again, certificate by certificate, until nothing more is wrong.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::value::{StrDeserializer, StringDeserializer};
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Error, Expected, IntoDeserializer, MapAccess,
    SeqAccess, Unexpected, Visitor,
};
use serde::forward_to_deserialize_any;

use crate::config::fault::{At, Fault, KeyPath, Spot};
use crate::config::nearest::{nearest, one_of};
use crate::config::raw::{Named, RawCertificate, RawConfig};
use crate::config::tree::{Entry, Node, Tree, Value};

/// What can be read of a text, and what cannot
#[derive(Debug, Default)]
pub(super) struct Collected {
    pub(super) raw: RawConfig,
    pub(super) faults: Vec<Fault>,
    /// Places whose values are missing from `raw` although the text has them, or means to
    pub(super) damaged: Vec<KeyPath>,
}

/// Read all that can be read; what cannot is dropped from the tree
pub(super) fn collect(tree: &mut Tree) -> Collected {
    let mut collected = Collected::default();
    let root = At::Root;
    let certificates = root.key("certificates");
    let path = certificates.path();
    // The entries are read one by one: the more there are, the more mistakes there can be, and
    // each mistake means reading again what it is a part of.
    let entries = match tree.root.at_mut(&path.0).map(|node| &mut node.value) {
        Some(Value::Map(entries)) => std::mem::take(entries),
        _ => Vec::new(),
    };
    collected.raw = collected.read::<RawConfig>(&mut tree.root, &root).unwrap_or_default();
    let mut named = BTreeMap::new();
    let mut kept = Vec::with_capacity(entries.len());
    for mut entry in entries {
        let at = certificates.key(&entry.key);
        if let Some(raw) = collected.read::<RawCertificate>(&mut entry.node, &at) {
            named.insert(entry.key.clone(), raw);
        } else {
            entry.node.dropped = true;
        }
        kept.push(entry);
    }
    if !kept.is_empty() {
        collected.raw.certificates = Some(Named(named));
        if let Some(node) = tree.root.at_mut(&path.0) {
            node.value = Value::Map(kept);
        }
    }
    collected
}

impl Collected {
    /// Read one value, as often as it takes
    fn read<T: DeserializeOwned>(&mut self, node: &mut Node, at: &At<'_>) -> Option<T> {
        let own = at.path();
        loop {
            let refusal = match T::deserialize(Reader { node, at: *at }) {
                Ok(value) => return Some(value),
                Err(refusal) => refusal,
            };
            let path = refusal.path.unwrap_or_else(|| own.clone());
            let below = path.0.get(own.0.len()..).unwrap_or_default();
            let parent = below.split_last().and_then(|(_, parent)| node.at_mut(parent));
            // What a misspelt key means is not missing.
            if let (Some(parent), Some(meant)) = (parent, refusal.wrong.meant())
                && !parent.has(meant)
                && let Some((_, parent)) = path.0.split_last()
            {
                self.damaged.push(KeyPath(parent.to_vec()).child(meant));
            }
            let dropped = node.at_mut(below).filter(|_| !below.is_empty());
            let dropped = dropped.map(|node| node.dropped = true);
            let (spot, message, remedy) = refusal.wrong.explain();
            self.damaged.push(path.clone());
            self.faults.push(Fault::new(path, spot, message, remedy));
            dropped?;
        }
    }
}

/// What is wrong with the form of a value
#[derive(Debug)]
enum Wrong {
    Kind { found: String, expected: String },
    Key { key: String, valid: &'static [&'static str] },
    Word { word: String, valid: &'static [&'static str] },
    Other(String),
}

impl Wrong {
    /// The key that was probably meant by a wrong one: it is there, in a way
    fn meant(&self) -> Option<&'static str> {
        match self {
            Self::Key { key, valid } => meant(key, valid),
            _ => None,
        }
    }

    fn explain(self) -> (Spot, String, String) {
        match self {
            Self::Kind { found, expected } => {
                let remedy = kind_remedy(&found, &expected);
                (Spot::Value, format!("is {found}, where {expected} is wanted"), remedy)
            }
            Self::Key { key, valid } => {
                let remedy = key_remedy(&key, valid);
                (Spot::Key, "is an unknown key".to_owned(), remedy)
            }
            Self::Word { word, valid } => {
                let known = one_of(valid.iter().copied());
                let remedy = match nearest(&word, valid.iter().copied()) {
                    Some(near) => format!("did you mean `{near}`? possible are {known}"),
                    None => format!("possible are {known}"),
                };
                (Spot::Value, format!("`{}` is not possible here", word.escape_debug()), remedy)
            }
            Self::Other(message) => {
                (Spot::Value, message, "see `certkeep schema` for what it may be".to_owned())
            }
        }
    }
}

fn kind_remedy(found: &str, expected: &str) -> String {
    let remedy = match (found, expected) {
        (TAGGED, _) => "write the value itself, without the word that begins with `!`",
        (_, NUMBER) => "write it in digits, without a sign, a point or quotes",
        (_, TRUTH) => "write `true` or `false`, without quotes",
        ("a number" | "a truth value", _) if expected.starts_with("text") => "put it in quotes",
        ("a list", "text") => "give one value; text that begins with `[` must be in quotes",
        ("a map", "text") => "give one value; text with `: ` or `{` in it must be in quotes",
        ("text", "a list of words or a map") => {
            "write the program and its arguments as a list, such as `[nginx, -t]`"
        }
        (_, LIST) => "write it as a list, in brackets or with a `- ` before each entry",
        (_, MAP) => "write `key: value` pairs, each on a line of its own and further to the right",
        _ => "see `certkeep schema` for what it may be",
    };
    remedy.to_owned()
}

fn key_remedy(key: &str, valid: &[&'static str]) -> String {
    let special = match key {
        "<<" => "merge keys are not read; put what certificates share under `defaults`",
        "hmac_key" => {
            "secrets are not written in this file: use `hmac_key_file`, `hmac_key_credential` or \
             `hmac_key_env`"
        }
        "password" if valid.contains(&"password_file") => {
            "secrets are not written in this file: use `password_file`, `password_credential` or \
             `password_env`"
        }
        "dns-01" | "tls-alpn-01" | "dns-persist-01" => "the only challenge as yet is `http-01`",
        _ => "",
    };
    if !special.is_empty() {
        return special.to_owned();
    }
    match meant(key, valid) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => format!("possible here: {}", one_of(valid.iter().copied())),
    }
}

fn meant(key: &str, valid: &[&'static str]) -> Option<&'static str> {
    let alias = alias(key).filter(|meant| valid.contains(meant));
    alias.or_else(|| nearest(key, valid.iter().copied()))
}

/// What other programs call our keys
fn alias(key: &str) -> Option<&'static str> {
    let meant = match key {
        "domain" | "domains" | "san" | "sans" | "identifiers" => "names",
        "email" | "emails" | "mail" => "contact",
        "server" | "url" | "ca" | "directory_url" => "directory",
        "key_type" | "keytype" | "algorithm" => "key",
        "issuers" => "issuer",
        "hook" | "cmd" | "argv" | "exec" => "command",
        "permissions" => "mode",
        "hmac_key" => "hmac_key_file",
        "password" => "password_file",
        "friendly_name" => "alias",
        _ => return None,
    };
    Some(meant)
}

/// Why a value could not be read, and where, as soon as that is known
#[derive(Debug)]
struct Refusal {
    wrong: Wrong,
    path: Option<KeyPath>,
}

impl Refusal {
    /// The innermost place is the right one
    fn at(mut self, at: &At<'_>) -> Self {
        self.path.get_or_insert_with(|| at.path());
        self
    }
}

impl From<Wrong> for Refusal {
    fn from(wrong: Wrong) -> Self {
        Self { wrong, path: None }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.wrong)
    }
}

impl std::error::Error for Refusal {}

impl Error for Refusal {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Wrong::Other(message.to_string()).into()
    }

    /// Without the value, which may be a secret in the wrong place
    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let found = match found {
            Unexpected::Bool(_) => "a truth value",
            Unexpected::Unsigned(_) | Unexpected::Signed(_) | Unexpected::Float(_) => "a number",
            Unexpected::Str(_) => "text",
            Unexpected::Unit | Unexpected::Option => "nothing",
            Unexpected::Seq => "a list",
            Unexpected::Map => "a map",
            _ => "something else",
        };
        Wrong::Kind { found: found.to_owned(), expected: expected.to_string() }.into()
    }

    fn unknown_variant(word: &str, valid: &'static [&'static str]) -> Self {
        Wrong::Word { word: word.to_owned(), valid }.into()
    }

    fn unknown_field(key: &str, valid: &'static [&'static str]) -> Self {
        Wrong::Key { key: key.to_owned(), valid }.into()
    }
}

/// Reads one value of the tree
#[derive(Clone, Copy)]
struct Reader<'n> {
    node: &'n Node,
    at: At<'n>,
}

impl Reader<'_> {
    fn refuse<T>(self, expected: &str) -> Result<T, Refusal> {
        let found = match &self.node.value {
            Value::Null => "nothing",
            Value::Bool(_) => "a truth value",
            Value::Integer(_) | Value::Number => "a number",
            Value::Text(_) => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
            Value::Tagged => TAGGED,
        };
        let (found, expected) = (found.to_owned(), expected.to_owned());
        Err(Refusal::from(Wrong::Kind { found, expected }).at(&self.at))
    }
}

impl<'de> Deserializer<'de> for Reader<'_> {
    type Error = Refusal;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        let outcome = match &self.node.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Integer(value) => visitor.visit_u64(*value),
            Value::Number => visitor.visit_f64(f64::NAN),
            Value::Text(text) => visitor.visit_str(text),
            Value::List(list) => {
                visitor.visit_seq(Elements { list: list.iter(), next: 0, of: self })
            }
            Value::Map(map) => {
                visitor.visit_map(Entries { map: map.iter(), entry: None, of: self })
            }
            Value::Tagged => return self.refuse("a plain value"),
        };
        outcome.map_err(|refusal| refusal.at(&self.at))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        match self.node.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        match self.node.value {
            Value::Bool(_) => self.deserialize_any(visitor),
            _ => self.refuse(TRUTH),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        match self.node.value {
            Value::List(_) => self.deserialize_any(visitor),
            _ => self.refuse(LIST),
        }
    }

    /// Nothing at all is an empty map, as it is for the YAML reader
    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        match self.node.value {
            Value::Map(_) => self.deserialize_any(visitor),
            Value::Null => visitor
                .visit_map(Entries { map: [].iter(), entry: None, of: self })
                .map_err(|refusal| refusal.at(&self.at)),
            _ => self.refuse(MAP),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        self.deserialize_map(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        match &self.node.value {
            Value::Text(word) if variants.contains(&word.as_str()) => {
                let word: StrDeserializer<'_, Refusal> = word.as_str().into_deserializer();
                visitor.visit_enum(word).map_err(|refusal| refusal.at(&self.at))
            }
            Value::Text(word) => Err(Refusal::unknown_variant(word, variants).at(&self.at)),
            _ => self.refuse("text"),
        }
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct newtype_struct tuple tuple_struct identifier ignored_any
    }
}

/// The elements of a list that were not dropped
struct Elements<'n> {
    list: std::slice::Iter<'n, Node>,
    next: usize,
    of: Reader<'n>,
}

impl<'de> SeqAccess<'de> for Elements<'_> {
    type Error = Refusal;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Refusal> {
        for node in self.list.by_ref() {
            let index = self.next;
            self.next += 1;
            if !node.dropped {
                let at = self.of.at.index(index);
                return seed.deserialize(Reader { node, at }).map(Some);
            }
        }
        Ok(None)
    }
}

/// The entries of a map that were not dropped
struct Entries<'n> {
    map: std::slice::Iter<'n, Entry>,
    entry: Option<&'n Entry>,
    of: Reader<'n>,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Refusal;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Refusal> {
        self.entry = self.map.by_ref().find(|entry| !entry.node.dropped);
        let Some(entry) = self.entry else { return Ok(None) };
        let key: StringDeserializer<Refusal> = entry.key.clone().into_deserializer();
        let outcome = seed.deserialize(key);
        outcome.map(Some).map_err(|refusal| refusal.at(&self.of.at.key(&entry.key)))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Refusal> {
        let Some(entry) = self.entry.take() else {
            return Err(Refusal::custom("a value without a key"));
        };
        let at = self.of.at.key(&entry.key);
        seed.deserialize(Reader { node: &entry.node, at })
    }
}

const LIST: &str = "a list";
const MAP: &str = "a map";
const NUMBER: &str = "a whole number";
const TAGGED: &str = "a value with a type of its own (`!`)";
const TRUTH: &str = "`true` or `false`";
