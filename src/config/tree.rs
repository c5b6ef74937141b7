//! The text as a tree whose every key and value knows its line and column.
//!
//! Read only after a mistake was found. The YAML reader tells a place in nothing but its errors, so
//! each scalar is refused once, as soon as its value is taken, and the place is read off the
//! refusal; reading then goes on behind the scalar.

use std::collections::HashSet;
use std::fmt;

use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, VariantAccess, Visitor,
};

use crate::config::fault::{KeyPath, Spot, Step};

/// A line and a column, both from 1
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) line: usize,
    pub(super) column: usize,
}

impl Place {
    pub(super) const START: Self = Self { line: 1, column: 1 };
}

/// A value
#[derive(Debug)]
pub(super) struct Node {
    pub(super) value: Value,
    /// Where it is; unknown for a list, a map and a value that is not there
    place: Option<Place>,
    /// Whether it was found wrong and is passed over
    pub(super) dropped: bool,
}

/// What a value is
#[derive(Debug)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Integer(u64),
    /// Any number that is no [`Value::Integer`]
    Number,
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
    /// A scalar, list or map that the text gave a type of its own, such as `!secret`
    Tagged,
}

/// A key and its value
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    place: Place,
    pub(super) node: Node,
}

/// A text as a tree, and the keys that came twice and were left out of it
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) root: Node,
    pub(super) repeated: Vec<(KeyPath, Place)>,
}

/// Why a text is no tree
#[derive(Debug, PartialEq, Eq)]
pub(super) enum TreeError {
    /// Its aliases, written out, would be more values than any configuration has
    TooMany,
    /// It is not YAML, or YAML of a kind that no configuration is
    Yaml { place: Place, message: String },
}

impl Tree {
    pub(super) fn read(text: &str) -> Result<Self, TreeError> {
        // Without aliases every value takes a byte at least.
        let left = text.len() + ALIASED;
        let mut reading = Reading { left, path: KeyPath::default(), repeated: Vec::new() };
        let mut found = None;
        let seed = Seed { reading: &mut reading, found: &mut found };
        match seed.deserialize(serde_yaml::Deserializer::from_str(text)) {
            Ok(()) => {}
            Err(error) if awaits_place(found.as_ref()) => set_place(&mut found, &error),
            Err(_) if reading.left == 0 => return Err(TreeError::TooMany),
            Err(error) => return Err(yaml_error(&error)),
        }
        let root = found.unwrap_or_else(|| Node::new(Value::Null));
        Ok(Self { root, repeated: reading.repeated })
    }
}

/// What a YAML error says, without the place that it names itself
pub(super) fn yaml_error(error: &serde_yaml::Error) -> TreeError {
    let text = error.to_string();
    let place = error.location().map(|at| Place { line: at.line(), column: at.column() });
    let message = match place {
        Some(Place { line, column }) => {
            text.replacen(&format!(" at line {line} column {column}"), "", 1)
        }
        None => text,
    };
    TreeError::Yaml { place: place.unwrap_or(Place::START), message }
}

impl Node {
    fn new(value: Value) -> Self {
        Self { value, place: None, dropped: false }
    }

    /// The value at the end of this path
    pub(super) fn at_mut(&mut self, path: &[Step]) -> Option<&mut Self> {
        let Some((step, rest)) = path.split_first() else { return Some(self) };
        let next = match (&mut self.value, step) {
            (Value::List(list), Step::Index(index)) => list.get_mut(*index),
            (Value::Map(map), Step::Key(key)) => {
                map.iter_mut().find(|entry| entry.key == *key).map(|entry| &mut entry.node)
            }
            _ => None,
        };
        next?.at_mut(rest)
    }

    /// Whether it is a map with this key
    pub(super) fn has(&self, key: &str) -> bool {
        matches!(&self.value, Value::Map(map) if map.iter().any(|entry| entry.key == key))
    }

    /// Where something is; what is not there is where it would have to be
    pub(super) fn place(&self, path: &KeyPath, spot: Spot) -> Place {
        let mut node = self;
        let mut place = self.first_place().unwrap_or(Place::START);
        let mut steps = path.0.iter().peekable();
        while let Some(step) = steps.next() {
            match (&node.value, step) {
                (Value::List(list), Step::Index(index)) => {
                    let Some(next) = list.get(*index) else { return place };
                    place = next.first_place().unwrap_or(place);
                    node = next;
                }
                (Value::Map(map), Step::Key(key)) => {
                    let Some(entry) = map.iter().find(|entry| entry.key == *key) else {
                        return place;
                    };
                    let own = (spot == Spot::Value && steps.peek().is_none())
                        .then_some(entry.node.place)
                        .flatten();
                    place = own.unwrap_or(entry.place);
                    node = &entry.node;
                }
                _ => return place,
            }
        }
        place
    }

    /// The path in the text, for one that counts without what was dropped
    pub(super) fn original(&self, path: KeyPath) -> KeyPath {
        let mut node = Some(self);
        let steps = path.0.into_iter().map(|step| match (node.map(|node| &node.value), step) {
            (Some(Value::List(list)), Step::Index(index)) => {
                let kept = list.iter().enumerate().filter(|(_, node)| !node.dropped).nth(index);
                node = kept.map(|(_, node)| node);
                Step::Index(kept.map_or(index, |(original, _)| original))
            }
            (Some(Value::Map(map)), Step::Key(key)) => {
                node = map.iter().find(|entry| entry.key == key).map(|entry| &entry.node);
                Step::Key(key)
            }
            (_, step) => {
                node = None;
                step
            }
        });
        KeyPath(steps.collect())
    }

    fn first_place(&self) -> Option<Place> {
        match &self.value {
            Value::Map(map) => map.first().map(|entry| entry.place),
            Value::List(list) => list.first().and_then(Self::first_place),
            _ => self.place,
        }
    }
}

struct Reading {
    /// How many values may still come
    left: usize,
    path: KeyPath,
    repeated: Vec<(KeyPath, Place)>,
}

struct Seed<'s> {
    reading: &'s mut Reading,
    found: &'s mut Option<Node>,
}

impl Seed<'_> {
    /// Keep a scalar, and refuse it to be told its place
    fn scalar<E: Error>(self, value: Value) -> Result<(), E> {
        *self.found = Some(Node::new(value));
        Err(E::custom(""))
    }

    fn next<E: Error>(
        found: &mut Option<Node>,
        outcome: Result<Option<()>, E>,
    ) -> Result<Option<Node>, E> {
        match outcome {
            Ok(Some(())) => {}
            Ok(None) => return Ok(None),
            Err(error) if awaits_place(found.as_ref()) => set_place(found, &error),
            Err(error) => return Err(error),
        }
        Ok(found.take())
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if self.reading.left == 0 {
            return Err(D::Error::custom("too many values"));
        }
        self.reading.left -= 1;
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        *self.found = Some(Node::new(Value::Null));
        Ok(())
    }

    fn visit_none<E: Error>(self) -> Result<(), E> {
        self.visit_unit()
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        self.scalar(Value::Bool(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.scalar(Value::Integer(value))
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        self.scalar(Value::Number)
    }

    fn visit_u128<E: Error>(self, _: u128) -> Result<(), E> {
        self.scalar(Value::Number)
    }

    fn visit_i128<E: Error>(self, _: i128) -> Result<(), E> {
        self.scalar(Value::Number)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        self.scalar(Value::Number)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.scalar(Value::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<(), A::Error> {
        let Seed { reading, found } = self;
        let mut list = Vec::new();
        loop {
            reading.path.0.push(Step::Index(list.len()));
            let mut found = None;
            let outcome = access.next_element_seed(Seed { reading, found: &mut found });
            let next = Self::next(&mut found, outcome)?;
            reading.path.0.pop();
            match next {
                Some(node) => list.push(node),
                None => break,
            }
        }
        *found = Some(Node::new(Value::List(list)));
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<(), A::Error> {
        let Seed { reading, found } = self;
        let mut map: Vec<Entry> = Vec::new();
        let mut keys = HashSet::new();
        loop {
            let mut found = None;
            let outcome = access.next_key_seed(KeySeed { found: &mut found });
            let Some(key) = Self::next(&mut found, outcome)? else { break };
            let (Value::Text(text), Some(place)) = (key.value, key.place) else { break };
            reading.path.0.push(Step::Key(text.clone()));
            let mut found = None;
            let outcome = access.next_value_seed(Seed { reading, found: &mut found });
            let node = Self::next(&mut found, outcome.map(Some))?;
            if keys.insert(text.clone()) {
                let node = node.unwrap_or_else(|| Node::new(Value::Null));
                map.push(Entry { key: text, place, node });
            } else {
                reading.repeated.push((reading.path.clone(), place));
            }
            reading.path.0.pop();
        }
        *found = Some(Node::new(Value::Map(map)));
        Ok(())
    }

    fn visit_enum<A: EnumAccess<'de>>(self, access: A) -> Result<(), A::Error> {
        let Seed { reading, found } = self;
        let (_, content) = access.variant::<String>()?;
        let mut inner = None;
        let outcome = content.newtype_variant_seed(Seed { reading, found: &mut inner });
        let place = Self::next(&mut inner, outcome.map(Some))?.and_then(|node| node.first_place());
        *found = Some(Node { place, ..Node::new(Value::Tagged) });
        Ok(())
    }
}

/// A key is text whatever it looks like
struct KeySeed<'s> {
    found: &'s mut Option<Node>,
}

impl<'de> DeserializeSeed<'de> for KeySeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for KeySeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key that is text")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        *self.found = Some(Node::new(Value::Text(text.to_owned())));
        Err(E::custom(""))
    }
}

/// Whether the refusal was our own, of a scalar whose value we have
fn awaits_place(found: Option<&Node>) -> bool {
    found.is_some_and(|node| {
        node.place.is_none()
            && matches!(
                node.value,
                Value::Bool(_) | Value::Integer(_) | Value::Number | Value::Text(_)
            )
    })
}

fn set_place(found: &mut Option<Node>, error: &impl fmt::Display) {
    if let Some(node) = found {
        node.place = Some(refusal_place(&error.to_string()));
    }
}

/// The place that a refusal names; it names none for the very start
fn refusal_place(text: &str) -> Place {
    let place = || {
        let (_, at) = text.rsplit_once(" at line ")?;
        let (line, column) = at.split_once(" column ")?;
        Some(Place { line: line.parse().ok()?, column: column.parse().ok()? })
    };
    place().unwrap_or(Place::START)
}

/// How many values aliases may stand for, more than the text is long
const ALIASED: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn path(steps: &[Step]) -> KeyPath {
        KeyPath(steps.to_vec())
    }

    fn key(key: &str) -> Step {
        Step::Key(key.to_owned())
    }

    const TEXT: &str = "\
first: 1
certificates:
  a.test:
    names: [a.test, 'b.test']
    files:
      - path: /x
        mode: true
      - { path: /y, mode: 0x10 }
  empty:
tag: !secret x
alias: &anchor deep
again: *anchor
first: 2
";

    #[test]
    fn every_key_and_value_has_its_place() {
        let tree = Tree::read(TEXT).unwrap();
        let certificate = [key("certificates"), key("a.test")];
        let under = |rest: &[Step]| path(&[&certificate[..], rest].concat());
        let cases = [
            (path(&[]), Spot::Value, (1, 1)),
            (path(&[key("first")]), Spot::Key, (1, 1)),
            (path(&[key("first")]), Spot::Value, (1, 8)),
            (under(&[]), Spot::Value, (3, 3)),
            (under(&[key("names")]), Spot::Value, (4, 5)),
            (under(&[key("names"), Step::Index(0)]), Spot::Value, (4, 13)),
            (under(&[key("names"), Step::Index(1)]), Spot::Value, (4, 21)),
            (under(&[key("files"), Step::Index(0)]), Spot::Value, (6, 9)),
            (under(&[key("files"), Step::Index(0), key("mode")]), Spot::Value, (7, 15)),
            (under(&[key("files"), Step::Index(1), key("mode")]), Spot::Key, (8, 21)),
            (under(&[key("files"), Step::Index(1), key("mode")]), Spot::Value, (8, 27)),
            // What is missing is where it would be.
            (under(&[key("key")]), Spot::Value, (3, 3)),
            (under(&[key("files"), Step::Index(1), key("content")]), Spot::Value, (8, 11)),
            (path(&[key("certificates"), key("empty")]), Spot::Value, (9, 3)),
            (path(&[key("issuers")]), Spot::Value, (1, 1)),
            (path(&[key("tag")]), Spot::Value, (10, 6)),
            (path(&[key("again")]), Spot::Value, (11, 8)),
        ];
        for (path, spot, (line, column)) in cases {
            assert_eq!(tree.root.place(&path, spot), Place { line, column }, "{path} {spot:?}");
        }
        assert_eq!(tree.repeated, [(path(&[key("first")]), Place { line: 13, column: 1 })]);
    }

    #[test]
    fn values_keep_their_kind() {
        let mut tree = Tree::read(TEXT).unwrap();
        let mut kind = |steps: &[Step]| format!("{:?}", tree.root.at_mut(steps).unwrap().value);
        assert_eq!(kind(&[key("first")]), "Integer(1)");
        assert_eq!(kind(&[key("tag")]), "Tagged");
        assert_eq!(kind(&[key("again")]), r#"Text("deep")"#);
        assert_eq!(kind(&[key("certificates"), key("empty")]), "Null");
    }

    #[test]
    fn a_scalar_alone_is_a_tree() {
        let tree = Tree::read("hello").unwrap();
        assert!(matches!(tree.root.value, Value::Text(_)));
        assert!(matches!(Tree::read("").unwrap().root.value, Value::Null));
    }

    #[test]
    fn aliases_that_multiply_are_refused_early() {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..12 {
            let below = level - 1;
            let aliases = vec![format!("*a{below}"); 10].join(", ");
            text.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
        }
        assert_eq!(Tree::read(&text).unwrap_err(), TreeError::TooMany);
        let wide = format!("a: &a [{}]\nb: [{}]", "x, ".repeat(5000), "*a, ".repeat(5000));
        assert_eq!(Tree::read(&wide).unwrap_err(), TreeError::TooMany);
    }

    #[test]
    fn what_is_not_yaml_has_its_place_once() {
        let error = Tree::read("a: 1\nb: [1,\n").unwrap_err();
        let TreeError::Yaml { place, message } = error else { panic!("{error:?}") };
        assert_eq!(place, Place { line: 3, column: 1 });
        assert!(!message.contains("line 3"), "{message}");
    }
}
