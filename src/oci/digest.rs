//! Content digests (OCI image-spec, `descriptor.md`, "Digests").

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Digest as _;
use sha2::digest::common::hazmat::{SerializableState, SerializedState};

/// A hash algorithm that a digest may name and that we can verify.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// SHA-256, 64 hexadecimal digits; what practically every registry uses.
    Sha256,
    /// SHA-384, 96 hexadecimal digits.
    Sha384,
    /// SHA-512, 128 hexadecimal digits.
    Sha512,
}

impl Algorithm {
    /// The name in front of the colon, which is also the folder's name in an image layout.
    pub fn as_str(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha384 => "sha384",
            Algorithm::Sha512 => "sha512",
        }
    }

    /// How many hexadecimal digits a digest of this algorithm has.
    pub fn hex_len(self) -> usize {
        match self {
            Algorithm::Sha256 => 64,
            Algorithm::Sha384 => 96,
            Algorithm::Sha512 => 128,
        }
    }
}

impl FromStr for Algorithm {
    type Err = InvalidDigest;

    fn from_str(s: &str) -> Result<Self, InvalidDigest> {
        match s {
            "sha256" => Ok(Algorithm::Sha256),
            "sha384" => Ok(Algorithm::Sha384),
            "sha512" => Ok(Algorithm::Sha512),
            _ => Err(InvalidDigest::Algorithm(s.into())),
        }
    }
}

/// The name of some bytes: an algorithm and the hash in lower-case hexadecimal.
///
/// Whatever exists as a `Digest` is safe as a file name and in a URL: it holds nothing but `[a-z0-9:]`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    algorithm: Algorithm,
    hex: Box<str>,
}

/// Why a text is no digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDigest {
    /// There is no colon between algorithm and hash.
    #[error("invalid digest {0:?}: expected ALGORITHM:HEX")]
    Format(String),
    /// The algorithm is none that we can verify.
    #[error("unsupported digest algorithm {0:?}: sha256, sha384 and sha512 can be verified")]
    Algorithm(String),
    /// The hash has the wrong length or holds other characters than `[0-9a-f]`.
    #[error("invalid digest {0:?}: expected {1} lower-case hexadecimal digits")]
    Hex(String, usize),
}

impl Digest {
    /// The SHA-256 digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Digest {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        hasher.update(bytes);
        hasher.finish()
    }

    /// The algorithm.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The hash in lower-case hexadecimal.
    pub fn hex(&self) -> &str {
        &self.hex
    }

    /// The tag that speaks of these bytes, or the beginning of one: the algorithm, `-`, and up to 64 digits
    /// (distribution-spec, "Referrers Tag Schema").
    pub fn as_tag(&self) -> String {
        let hex = self.hex();
        format!("{}-{}", self.algorithm().as_str(), hex.get(..64).unwrap_or(hex))
    }

    /// The first twelve hexadecimal digits, as docker prints them. For people, never for look-ups.
    pub fn short(&self) -> &str {
        &self.hex[..12]
    }

    /// Whether `bytes` are the bytes that this digest names.
    pub fn matches(&self, bytes: &[u8]) -> bool {
        let mut hasher = Hasher::new(self.algorithm);
        hasher.update(bytes);
        hasher.finish() == *self
    }
}

impl FromStr for Digest {
    type Err = InvalidDigest;

    fn from_str(s: &str) -> Result<Self, InvalidDigest> {
        let (algorithm, hex) = s.split_once(':').ok_or_else(|| InvalidDigest::Format(s.into()))?;
        let algorithm: Algorithm = algorithm.parse()?;
        let is_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if hex.len() != algorithm.hex_len() || !hex.bytes().all(is_hex) {
            return Err(InvalidDigest::Hex(s.into(), algorithm.hex_len()));
        }
        Ok(Digest { algorithm, hex: hex.into() })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.as_str(), self.hex)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Computes a digest over bytes that come piece by piece.
#[derive(Clone)]
pub struct Hasher(State);

#[derive(Clone)]
enum State {
    Sha256(sha2::Sha256),
    Sha384(sha2::Sha384),
    Sha512(sha2::Sha512),
}

impl Hasher {
    /// A hasher that has seen nothing.
    pub fn new(algorithm: Algorithm) -> Hasher {
        Hasher(match algorithm {
            Algorithm::Sha256 => State::Sha256(sha2::Sha256::new()),
            Algorithm::Sha384 => State::Sha384(sha2::Sha384::new()),
            Algorithm::Sha512 => State::Sha512(sha2::Sha512::new()),
        })
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            State::Sha256(h) => h.update(bytes),
            State::Sha384(h) => h.update(bytes),
            State::Sha512(h) => h.update(bytes),
        }
    }

    /// What another process needs to go on: at most a few hundred bytes of hexadecimal, which hold up to one block of what
    /// was hashed last.
    pub fn save(&self) -> String {
        match &self.0 {
            State::Sha256(h) => hex(&h.serialize()),
            State::Sha384(h) => hex(&h.serialize()),
            State::Sha512(h) => hex(&h.serialize()),
        }
    }

    /// A hasher that goes on where [`Hasher::save`] left. `None` for a text that does not come from there: a wrong one is a
    /// hasher of other bytes, whose digest will not agree.
    pub fn restore(algorithm: Algorithm, saved: &str) -> Option<Hasher> {
        let bytes = unhex(saved)?;
        Some(Hasher(match algorithm {
            Algorithm::Sha256 => State::Sha256(restored(&bytes)?),
            Algorithm::Sha384 => State::Sha384(restored(&bytes)?),
            Algorithm::Sha512 => State::Sha512(restored(&bytes)?),
        }))
    }

    /// The digest of all bytes taken.
    pub fn finish(self) -> Digest {
        let (algorithm, hash) = match self.0 {
            State::Sha256(h) => (Algorithm::Sha256, h.finalize().to_vec()),
            State::Sha384(h) => (Algorithm::Sha384, h.finalize().to_vec()),
            State::Sha512(h) => (Algorithm::Sha512, h.finalize().to_vec()),
        };
        Digest { algorithm, hex: hex(&hash).into() }
    }
}

fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |b: &u8| char::from(*b).to_digit(16).and_then(|value| u8::try_from(value).ok());
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let bytes = pairs.iter().map(|[high, low]| Some(digit(high)? << 4 | digit(low)?)).collect();
    if rest.is_empty() { bytes } else { None }
}

fn restored<H: SerializableState>(bytes: &[u8]) -> Option<H> {
    let state = SerializedState::<H>::try_from(bytes).ok()?;
    H::deserialize(&state).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn the_digest_of_nothing_is_the_well_known_one() {
        assert_eq!(Digest::of(b"").to_string(), EMPTY);
        assert!(EMPTY.parse::<Digest>().unwrap().matches(b""));
        assert!(!EMPTY.parse::<Digest>().unwrap().matches(b"x"));
    }

    #[test]
    fn what_could_leave_its_folder_is_no_digest() {
        for bad in ["", "sha256", "sha256:", "sha256:../../../etc/passwd", "md5:00", "../x:00"] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
        let upper = EMPTY.to_uppercase().replace("SHA256", "sha256");
        assert!(upper.parse::<Digest>().is_err());
    }

    #[test]
    fn a_hasher_goes_on_in_another_process() {
        let bytes: Vec<u8> = (0..1000u32).flat_map(u32::to_le_bytes).collect();
        for algorithm in [Algorithm::Sha256, Algorithm::Sha384, Algorithm::Sha512] {
            for cut in [0, 1, 63, 64, 127, 128, 129, 3999, 4000] {
                let (mut whole, mut first) = (Hasher::new(algorithm), Hasher::new(algorithm));
                whole.update(&bytes);
                first.update(&bytes[..cut]);
                let mut second = Hasher::restore(algorithm, &first.save()).unwrap();
                second.update(&bytes[cut..]);
                assert_eq!(second.finish(), whole.finish(), "{algorithm:?} {cut}");
            }
        }
    }

    #[test]
    fn what_no_hasher_saved_is_not_restored() {
        let saved = Hasher::new(Algorithm::Sha256).save();
        for wrong in ["", "0", "zz", &saved[2..], &format!("{saved}00"), &format!("{}ff", &saved[2..]), "ä"] {
            assert!(Hasher::restore(Algorithm::Sha256, wrong).is_none(), "{wrong}");
        }
        assert!(Hasher::restore(Algorithm::Sha512, &saved).is_none());
    }

    #[test]
    fn every_algorithm_has_the_length_it_claims() {
        for algorithm in [Algorithm::Sha256, Algorithm::Sha384, Algorithm::Sha512] {
            let digest = Hasher::new(algorithm).finish();
            assert_eq!(digest.hex().len(), algorithm.hex_len());
            assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
        }
    }
}
