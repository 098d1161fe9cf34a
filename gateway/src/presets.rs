//! What is known about the products at the other end, as settings: `partner add --preset NAME`.
//!
//! A preset holds only what differs from the defaults, which suit most products. What every product is forgiven anyway (line
//! ends, odd headers, missing signed attributes) needs no setting and stands in COMPATIBILITY.md.

/// One setting of a preset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The field of `[[partner]]`.
    pub field: &'static str,
    /// Its value, as `--set` takes it.
    pub value: &'static str,
    /// Why it differs from the default.
    pub why: &'static str,
}

/// A product or profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preset {
    /// The word of `--preset`.
    pub name: &'static str,
    /// For people.
    pub product: &'static str,
    /// What differs from the defaults.
    pub settings: &'static [Setting],
    /// What else one should know before the first message.
    pub advice: &'static str,
}

const fn set(field: &'static str, value: &'static str, why: &'static str) -> Setting {
    Setting { field, value, why }
}

/// All of them, in the order of listings.
pub const PRESETS: &[Preset] = &[
    Preset {
        name: "openas2",
        product: "OpenAS2 server",
        settings: &[set(
            "detects_duplicates",
            "false",
            "it keeps no record of Message-IDs: a message that is sent again is delivered again",
        )],
        advice: "It reads whole messages into memory: keep files well below its Java heap.",
    },
    Preset {
        name: "mendelson",
        product: "mendelson AS2",
        settings: &[],
        advice: "It answers a repeated message with an error that says so; that counts as delivered, receipt lost.",
    },
    Preset {
        name: "ibm-sterling",
        product: "IBM Sterling B2B Integrator",
        settings: &[],
        advice: "It may sign without signed attributes, and cannot read CMSAlgorithmProtection: leave protect_algorithms off.",
    },
    Preset {
        name: "oracle",
        product: "Oracle B2B and Oracle Integration",
        settings: &[],
        advice: "Line ends are neither changed nor canonicalized on the way; have it send its documents as they are, too.",
    },
    Preset {
        name: "amazon",
        product: "Amazon Vendor and Seller Central",
        settings: &[],
        advice: "It asks for RSA keys of 4096 bits: station add --key rsa-4096. Leave compression off.",
    },
    Preset {
        name: "biztalk",
        product: "Microsoft BizTalk Server",
        settings: &[set(
            "detects_duplicates",
            "false",
            "the check for repeated Message-IDs is off unless the agreement turns it on",
        )],
        advice: "It refuses chunked transfer coding. Releases before SHA-2 support need sign = sha1 with legacy = true.",
    },
    Preset {
        name: "logic-apps",
        product: "Microsoft Azure Logic Apps",
        settings: &[set(
            "detects_duplicates",
            "false",
            "the check for repeated Message-IDs is off unless the agreement turns it on",
        )],
        advice: "It sends no receipt at all for a message that it cannot decode: look at its run history then.",
    },
    Preset {
        name: "cleo",
        product: "Cleo Harmony, VLTrader, LexiCom",
        settings: &[],
        advice: "It speaks AS2 1.0 to 1.3; the defaults fit a generic AS2 host.",
    },
    Preset {
        name: "seeburger-old",
        product: "SEEBURGER BIS, old releases, and others that know the names of RFC 3851 only",
        settings: &[set(
            "digest_names",
            "rfc3851",
            "it knows SHA-256 as sha256, and not as sha-256, which RFC 5751 made of it",
        )],
        advice: "Newer releases read both spellings: the defaults fit them.",
    },
    Preset {
        name: "sap",
        product: "SAP Cloud Integration and Process Orchestration",
        settings: &[set(
            "detects_duplicates",
            "false",
            "the adapter checks for repeated Message-IDs only where its owner asked for it; turn this on once that is agreed",
        )],
        advice: "Old agreements still use SHA-1 and 3DES: agree on SHA-256 and AES, or set legacy and accept_3des.",
    },
    Preset {
        name: "aws-transfer",
        product: "AWS Transfer Family",
        settings: &[set(
            "detects_duplicates",
            "false",
            "it does not look for repeated Message-IDs: a message that is sent again is delivered again",
        )],
        advice: "No GCM; files have a size quota; connections end after 350 idle seconds; messages in clear are refused over HTTP.",
    },
    Preset {
        name: "drummond-strict",
        product: "Products certified by the Drummond Group, held to it",
        settings: &[set(
            "strict_mic",
            "true",
            "a certified product states the MIC when it is asked for one: a receipt without it proves nothing",
        )],
        advice: "For partners whose certification is current; a receipt without MIC then fails the message.",
    },
    Preset {
        name: "rfc4130bis",
        product: "Products that follow draft-ietf-ediint-rfc4130bis",
        settings: &[
            set("as2_version", "1.3", "the draft's version number announces its profile"),
            set(
                "strict_mic",
                "true",
                "both sides state digests that the other knows: a receipt without MIC proves nothing",
            ),
        ],
        advice: "SHA-1, MD5 and 3DES are not for such partners; GCM is recommended: encrypt = aes256-gcm once both sides have it.",
    },
];

/// The preset of that name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Preset> {
    PRESETS.iter().find(|preset| preset.name == name)
}

impl Preset {
    /// Its settings followed by these, which therefore win.
    #[must_use]
    pub fn before(&self, settings: Vec<(String, String)>) -> Vec<(String, String)> {
        let own = self
            .settings
            .iter()
            .map(|setting| (setting.field.to_owned(), setting.value.to_owned()));
        own.chain(settings).collect()
    }

    /// `detects_duplicates = false, strict_mic = true`, or empty.
    #[must_use]
    pub fn summary(&self) -> String {
        let settings: Vec<String> = self.settings.iter().map(|s| format!("{} = {}", s.field, s.value)).collect();
        settings.join(", ")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::manage::fields;
    use crate::partner::Partner;

    #[test]
    fn every_preset_can_be_set_and_says_only_what_differs() {
        let plain = fields::table(&Partner::default());
        for preset in PRESETS {
            assert_eq!(find(preset.name), Some(preset));
            assert_eq!(PRESETS.iter().filter(|other| other.name == preset.name).count(), 1);
            assert!(!preset.advice.is_empty() && !preset.product.is_empty());
            // What may be set is not said to be impossible.
            assert!(!preset.advice.contains("never"), "{}", preset.advice);
            let partner = fields::assign(&Partner::default(), &preset.before(Vec::new())).unwrap();
            let table = fields::table(&partner);
            let changed: Vec<&str> = table
                .keys()
                .filter(|key| table.get(*key) != plain.get(*key))
                .map(String::as_str)
                .collect();
            let mut stated: Vec<&str> = preset.settings.iter().map(|setting| setting.field).collect();
            stated.sort_unstable();
            assert_eq!(changed, stated, "{}", preset.name);
            assert!(preset.settings.iter().all(|setting| !setting.why.is_empty()));
        }
        assert_eq!(find("nobody"), None);
    }

    #[test]
    fn what_is_given_wins() {
        let given = vec![
            ("detects_duplicates".to_owned(), "true".to_owned()),
            ("sign".to_owned(), "sha512".to_owned()),
        ];
        let partner = fields::assign(&Partner::default(), &find("openas2").unwrap().before(given)).unwrap();
        assert!(partner.detects_duplicates);
        assert_eq!(partner.sign.unwrap().as_str(), "sha512");
    }

    #[test]
    fn every_preset_has_its_line_in_the_book() {
        let book = include_str!("../../COMPATIBILITY.md");
        for preset in PRESETS {
            assert!(book.contains(&format!("| `{}` |", preset.name)), "{}", preset.name);
        }
    }
}
