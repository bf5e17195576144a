//! Just enough DER to read an X.509 certificate (RFC 5280, section 4.1): signature algorithm, names, validity, key.
//!
//! In: certificate bytes from strangers. Out: borrowed parts. Trusts no length; verifies no signature.

/// SEQUENCE.
const SEQUENCE: u8 = 0x30;
/// SET.
const SET: u8 = 0x31;
/// OBJECT IDENTIFIER.
const OID: u8 = 0x06;
/// OCTET STRING.
const OCTET_STRING: u8 = 0x04;
/// UTCTime: two digits of the year.
const UTC_TIME: u8 = 0x17;
/// GeneralizedTime: four digits of the year.
const GENERALIZED_TIME: u8 = 0x18;
/// `[0]`, the version of a certificate.
const VERSION: u8 = 0xA0;
/// `[3]`, the extensions of a certificate.
const EXTENSIONS: u8 = 0xA3;
/// 2.5.4.3, commonName.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
/// 2.5.29.17, subjectAltName.
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1D, 0x11];

/// Walks the elements of one DER value.
#[derive(Clone, Copy)]
struct Reader<'a> {
    rest: &'a [u8],
}

/// One element: its tag, its content, and all its bytes.
struct Element<'a> {
    tag: u8,
    content: &'a [u8],
    whole: &'a [u8],
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Option<Element<'a>> {
        let (&[tag, short], after) = self.rest.split_first_chunk::<2>()?;
        let (length, body) = if short < 0x80 {
            (usize::from(short), after)
        } else {
            let (digits, body) = after.split_at_checked(usize::from(short & 0x7F))?;
            if digits.len() > 4 {
                return None;
            }
            (digits.iter().fold(0usize, |sum, digit| sum << 8 | usize::from(*digit)), body)
        };
        let (content, rest) = body.split_at_checked(length)?;
        let whole = self.rest.get(..self.rest.len() - rest.len())?;
        self.rest = rest;
        Some(Element { tag, content, whole })
    }

    fn expect(&mut self, tag: u8) -> Option<Element<'a>> {
        self.next().filter(|element| element.tag == tag)
    }
}

fn reader(rest: &[u8]) -> Reader<'_> {
    Reader { rest }
}

/// The parts of a certificate that we look at.
#[derive(Clone, Copy, Debug)]
pub struct Certificate<'a> {
    /// OID of `signatureAlgorithm`, content bytes only.
    pub signature_oid: &'a [u8],
    /// Parameters of `signatureAlgorithm`, empty if there are none.
    pub signature_params: &'a [u8],
    /// The SubjectPublicKeyInfo, whole.
    pub public_key: &'a [u8],
    /// Start of validity, seconds since the Unix epoch.
    pub not_before: i64,
    /// End of validity, seconds since the Unix epoch.
    pub not_after: i64,
    subject: &'a [u8],
    alt_name: Option<&'a [u8]>,
}

impl<'a> Certificate<'a> {
    /// Takes a certificate apart; `None` when it is not one.
    pub fn parse(der: &'a [u8]) -> Option<Self> {
        let mut outer = reader(reader(der).expect(SEQUENCE)?.content);
        let mut body = reader(outer.expect(SEQUENCE)?.content);
        let mut algorithm = reader(outer.expect(SEQUENCE)?.content);
        if body.rest.first() == Some(&VERSION) {
            body.next()?;
        }
        // serialNumber, signature, issuer
        body.next()?;
        body.expect(SEQUENCE)?;
        body.expect(SEQUENCE)?;
        let mut validity = reader(body.expect(SEQUENCE)?.content);
        let subject = body.expect(SEQUENCE)?.content;
        let public_key = body.expect(SEQUENCE)?.whole;
        let mut alt_name = None;
        while let Some(element) = body.next() {
            if element.tag == EXTENSIONS {
                alt_name = extension(element.content, SUBJECT_ALT_NAME);
            }
        }
        Some(Self {
            signature_oid: algorithm.expect(OID)?.content,
            signature_params: algorithm.rest,
            public_key,
            not_before: time(&validity.next()?)?,
            not_after: time(&validity.next()?)?,
            subject,
            alt_name,
        })
    }

    /// The last commonName of the subject, as `cert` authentication and libpq's fallback use it.
    pub fn common_name(&self) -> Option<&'a str> {
        let mut found = None;
        let mut names = reader(self.subject);
        while let Some(set) = names.next() {
            let mut pairs = reader(if set.tag == SET { set.content } else { &[] });
            while let Some(pair) = pairs.expect(SEQUENCE) {
                let mut pair = reader(pair.content);
                if pair.expect(OID)?.content == COMMON_NAME {
                    found = std::str::from_utf8(pair.next()?.content).ok();
                }
            }
        }
        found.filter(|name| !name.contains('\0'))
    }

    /// Whether the certificate carries subject alternative names: then the common name does not count.
    pub fn has_alt_names(&self) -> bool {
        self.alt_name.is_some()
    }
}

/// The value of the extension with that OID.
fn extension<'a>(extensions: &'a [u8], oid: &[u8]) -> Option<&'a [u8]> {
    let mut list = reader(reader(extensions).expect(SEQUENCE)?.content);
    while let Some(entry) = list.expect(SEQUENCE) {
        let mut entry = reader(entry.content);
        if entry.expect(OID)?.content == oid {
            while let Some(part) = entry.next() {
                if part.tag == OCTET_STRING {
                    return Some(part.content);
                }
            }
        }
    }
    None
}

/// The hash OID among the parameters of RSASSA-PSS (RFC 4055): `[0] { SEQUENCE { OID … } }`.
pub fn pss_hash(params: &[u8]) -> Option<&[u8]> {
    let mut fields = reader(reader(params).expect(SEQUENCE)?.content);
    let hash = fields.expect(VERSION)?;
    Some(reader(reader(hash.content).expect(SEQUENCE)?.content).expect(OID)?.content)
}

/// `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ` in seconds since the Unix epoch.
fn time(element: &Element<'_>) -> Option<i64> {
    let text = std::str::from_utf8(element.content).ok()?.strip_suffix('Z')?;
    let (year, rest) = match element.tag {
        UTC_TIME => {
            let (year, rest) = text.split_at_checked(2)?;
            let year: i64 = year.parse().ok()?;
            // RFC 5280, 4.1.2.5.1: below 50 is this century.
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        GENERALIZED_TIME => {
            let (year, rest) = text.split_at_checked(4)?;
            (year.parse().ok()?, rest)
        }
        _ => return None,
    };
    let field = |at: usize| rest.get(at..at + 2)?.parse::<i64>().ok();
    let days = days_from_civil(year, field(0)?, field(2)?);
    Some(days * 86_400 + field(4)? * 3600 + field(6)? * 60 + field(8)?)
}

/// Days from 1970-01-01 in the Gregorian calendar; years count from March, so that the leap day comes last.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_a_certificate() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["db.example".to_owned()]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, "node a");
        params.not_before = rcgen::date_time_ymd(2024, 2, 29);
        params.not_after = rcgen::date_time_ymd(2051, 1, 1);
        let certificate = params.self_signed(&key).unwrap();
        let parsed = Certificate::parse(certificate.der()).unwrap();
        assert_eq!(parsed.common_name(), Some("node a"));
        assert!(parsed.has_alt_names());
        assert_eq!(parsed.not_before, 1_709_164_800);
        assert_eq!(parsed.not_after, 2_556_144_000);
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Certificate::parse(&bytes).map(|certificate| certificate.common_name().map(str::len));
            let _ = pss_hash(&bytes);
        }

        #[test]
        fn damaged_certificates_never_panic(at in 0usize..300, byte: u8) {
            let mut der = rcgen::generate_simple_self_signed(vec!["a".to_owned()]).unwrap().cert.der().to_vec();
            if let Some(hit) = der.get_mut(at) { *hit = byte; }
            let _ = Certificate::parse(&der).map(|certificate| certificate.common_name().map(str::len));
        }
    }
}
