//! Header names: known ones as variants, every other one by its spelling.

/// A header name. Compact forms (RFC 3261 section 7.3.3) and any letter case lead to the same variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Name<'a> {
    Known(Known),
    Other(&'a str),
}

macro_rules! names {
    ($($variant:ident $text:literal $($compact:literal)?;)*) => {
        /// The header fields this crate tells apart.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Known { $($variant,)* }

        #[allow(non_upper_case_globals)]
        impl Name<'_> {
            $(pub const $variant: Name<'static> = Name::Known(Known::$variant);)*
        }

        impl Known {
            /// The long form, as this crate writes it.
            pub fn text(self) -> &'static str {
                match self { $(Known::$variant => $text,)* }
            }

            const ALL: &'static [(Known, &'static str, Option<&'static str>)] =
                &[$((Known::$variant, $text, names!(@compact $($compact)?)),)*];
        }
    };
    (@compact) => { None };
    (@compact $compact:literal) => { Some($compact) };
}

names! {
    Via "Via" "v";
    From "From" "f";
    To "To" "t";
    CallId "Call-ID" "i";
    CSeq "CSeq";
    MaxForwards "Max-Forwards";
    Contact "Contact" "m";
    ContentLength "Content-Length" "l";
    ContentType "Content-Type" "c";
    ContentDisposition "Content-Disposition";
    ContentEncoding "Content-Encoding" "e";
    Route "Route";
    RecordRoute "Record-Route";
    Allow "Allow";
    Supported "Supported" "k";
    Require "Require";
    ProxyRequire "Proxy-Require";
    Unsupported "Unsupported";
    RSeq "RSeq";
    RAck "RAck";
    Authorization "Authorization";
    ProxyAuthorization "Proxy-Authorization";
    WwwAuthenticate "WWW-Authenticate";
    ProxyAuthenticate "Proxy-Authenticate";
    Expires "Expires";
    MinExpires "Min-Expires";
    SessionExpires "Session-Expires" "x";
    MinSe "Min-SE";
    Timestamp "Timestamp";
    Date "Date";
    UserAgent "User-Agent";
    Server "Server";
    Subject "Subject" "s";
    Reason "Reason";
    RetryAfter "Retry-After";
    Warning "Warning";
    Event "Event" "o";
    ReferTo "Refer-To" "r";
    ReferredBy "Referred-By" "b";
    Replaces "Replaces";
    Privacy "Privacy";
    PAssertedIdentity "P-Asserted-Identity";
    PPreferredIdentity "P-Preferred-Identity";
    Diversion "Diversion";
    HistoryInfo "History-Info";
    Identity "Identity" "y";
    Accept "Accept";
    AlertInfo "Alert-Info";
}

impl<'a> Name<'a> {
    pub fn parse(text: &'a str) -> Name<'a> {
        Known::ALL
            .iter()
            .find(|(_, long, compact)| {
                text.eq_ignore_ascii_case(long)
                    || compact.is_some_and(|compact| text.eq_ignore_ascii_case(compact))
            })
            .map_or(Name::Other(text), |(known, _, _)| Name::Known(*known))
    }

    pub fn text(self) -> &'a str {
        match self {
            Name::Known(known) => known.text(),
            Name::Other(text) => text,
        }
    }

    /// Same field, whatever the letter case (RFC 3261 section 7.3.1) and however the name was made:
    /// `Other("l")` is Content-Length.
    pub fn matches(self, other: Name<'_>) -> bool {
        match (self.normal(), other.normal()) {
            (Name::Known(one), Name::Known(two)) => one == two,
            (Name::Other(one), Name::Other(two)) => one.eq_ignore_ascii_case(two),
            (Name::Known(_), Name::Other(_)) | (Name::Other(_), Name::Known(_)) => false,
        }
    }

    /// The name with a known spelling resolved.
    pub(crate) fn normal(self) -> Name<'a> {
        match self {
            Name::Known(_) => self,
            Name::Other(text) => Name::parse(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_lead_to_one_name() {
        for text in ["Content-Length", "content-length", "L", "l"] {
            assert_eq!(Name::parse(text), Name::ContentLength);
            assert!(Name::Other(text).matches(Name::ContentLength));
        }
        assert!(Name::Other("X-a").matches(Name::Other("x-A")));
        assert!(!Name::Other("X-a").matches(Name::Via));
    }
}
