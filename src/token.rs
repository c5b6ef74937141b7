//! Challenge tokens and key authorizations, in the only form that is safe to publish.

use std::fmt;

use crate::name::Identifier;

/// A challenge token: 22 to 256 characters of the base64url alphabet
///
/// A CA chooses it and it becomes a file name and an URL path, so anything else is refused and
/// never rewritten.
///
/// <https://www.rfc-editor.org/rfc/rfc8555#section-8.3>
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(String);

impl Token {
    /// Take a token as the CA sent it; `None` when it is not one
    pub fn parse(text: &str) -> Option<Self> {
        let sound = (22..=256).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        sound.then(|| Self(text.to_owned()))
    }

    /// The token as text that is safe in a path and an URL
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One http-01 challenge that waits to be published
///
/// <https://www.rfc-editor.org/rfc/rfc8555#section-8.3>
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// The identifier whose control it proves
    pub identifier: Identifier,
    /// What the CA asks for
    pub token: Token,
    /// What it must be answered with: the token, a dot, the account key's thumbprint
    ///
    /// <https://www.rfc-editor.org/rfc/rfc8555#section-8.1>
    pub key_authorization: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_base64url_of_sensible_length_is_a_token() {
        let good = "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA";
        assert_eq!(Token::parse(good).unwrap().as_str(), good);
        let long = "a".repeat(257);
        let padded = format!("{good}=");
        let hostile = [
            "",
            ".",
            "..",
            "../../../../etc/cron.d/x",
            "aaaaaaaaaaaaaaaaaaaaaa/b",
            &long,
            &padded,
            "aaaaaaaaaaaaaaaaaaaaaaa%2e",
            "aaaaaaaaaaaaaaaaaaaaaaa\0",
            "short",
            "$(id)`;\n\x1b[2J",
        ];
        for text in hostile {
            assert_eq!(Token::parse(text), None, "{text:?}");
        }
    }
}
