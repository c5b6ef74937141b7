//! The JSON Schema of the file, for editors.

use schemars::Schema;
use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;

use crate::config::raw::RawConfig;

/// The JSON Schema (draft 2020-12) of the configuration file
///
/// Made from the very types that the file is read into, with their documentation as descriptions.
/// What a schema cannot say, such as that no two outputs share a path, only [`Config::parse`]
/// checks.
///
/// [`Config::parse`]: crate::config::Config::parse
pub fn schema() -> serde_json::Value {
    let settings = SchemaSettings::draft2020_12().with_transform(RecursiveTransform(unwrap));
    let generator = settings.into_generator();
    generator.into_root_schema_for::<RawConfig>().to_value()
}

/// Make one line of a description that our source breaks
fn unwrap(schema: &mut Schema) {
    if let Some(serde_json::Value::String(text)) = schema.get_mut("description") {
        *text = text.replace('\n', " ");
    }
}
