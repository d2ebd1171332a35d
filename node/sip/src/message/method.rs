//! Request methods. Method names are case-sensitive (RFC 3261 section 7.1).

use std::fmt;

macro_rules! methods {
    ($($variant:ident $text:literal;)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Method<'a> {
            $($variant,)*
            /// A method this crate has no rules for: it travels unchanged.
            Other(&'a str),
        }

        impl<'a> Method<'a> {
            pub fn parse(text: &'a str) -> Method<'a> {
                match text {
                    $($text => Method::$variant,)*
                    other => Method::Other(other),
                }
            }

            pub fn text(self) -> &'a str {
                match self {
                    $(Method::$variant => $text,)*
                    Method::Other(text) => text,
                }
            }
        }
    };
}

methods! {
    Invite "INVITE";
    Ack "ACK";
    Bye "BYE";
    Cancel "CANCEL";
    Options "OPTIONS";
    Register "REGISTER";
    Prack "PRACK";
    Update "UPDATE";
    Info "INFO";
    Subscribe "SUBSCRIBE";
    Notify "NOTIFY";
    Refer "REFER";
    Message "MESSAGE";
    Publish "PUBLISH";
}

impl fmt::Display for Method<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.text())
    }
}
