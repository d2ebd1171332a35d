//! The file as serde reads it: names and shapes only. Spans are kept where a later check may object,
//! so that the error can say which line.

use serde::Deserialize;
use toml::Spanned;

use super::{Located, Problem};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Raw {
    pub(super) node: Node,
    pub(super) pair: Pair,
    #[serde(default)]
    pub(super) admin: Admin,
    pub(super) floating: Option<Floating>,
    #[serde(default)]
    pub(super) realm: Vec<Realm>,
    #[serde(default)]
    pub(super) group: Vec<Group>,
    #[serde(default)]
    pub(super) route: Vec<Route>,
    pub(super) cdr: Option<Cdr>,
    pub(super) limits: Option<Limits>,
}

impl Raw {
    /// A witness with a realm would be a third node that somebody expects to serve.
    pub(super) fn refuse_border(&self) -> Result<(), Located> {
        let present = [
            ("floating", self.floating.is_some()),
            ("realm", !self.realm.is_empty()),
            ("group", !self.group.is_empty()),
            ("route", !self.route.is_empty()),
            ("cdr", self.cdr.is_some()),
            ("limits", self.limits.is_some()),
        ];
        match present.into_iter().find(|(_, present)| *present) {
            Some((section, _)) => Err(Problem::SectionOnWitness { section }.into()),
            None => Ok(()),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Node {
    pub(super) slot: Spanned<String>,
    #[serde(default = "default_state_dir")]
    pub(super) state_dir: String,
    pub(super) realtime: Option<Spanned<String>>,
}

fn default_state_dir() -> String {
    "/var/lib/tandem".to_owned()
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Pair {
    #[serde(default = "default_keys")]
    pub(super) keys: String,
    pub(super) a: Spanned<String>,
    pub(super) b: Spanned<String>,
    pub(super) witness: Spanned<String>,
    pub(super) profile: Option<Spanned<String>>,
    pub(super) durability: Option<Spanned<String>>,
    pub(super) on_single: Option<Spanned<String>>,
}

fn default_keys() -> String {
    "/etc/tandem/keys".to_owned()
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Admin {
    pub(super) listen: Spanned<String>,
}

impl Default for Admin {
    fn default() -> Self {
        Admin {
            listen: Spanned::new(0..0, "127.0.0.1:7610".to_owned()),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Floating {
    pub(super) mover: Spanned<String>,
    pub(super) interface: String,
    pub(super) addresses: Vec<Spanned<String>>,
    pub(super) ec2: Option<Ec2>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ec2 {
    pub(super) region: String,
    pub(super) endpoint: Option<String>,
    pub(super) eni: Enis,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Enis {
    pub(super) a: Spanned<String>,
    pub(super) b: Spanned<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Realm {
    pub(super) name: Spanned<String>,
    pub(super) bind: Spanned<String>,
    pub(super) advertise: Option<Spanned<String>>,
    pub(super) media_ports: Spanned<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Group {
    pub(super) name: Spanned<String>,
    pub(super) realm: Spanned<String>,
    pub(super) targets: Spanned<Vec<Target>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Target {
    pub(super) address: Spanned<String>,
    #[serde(default = "default_priority")]
    pub(super) priority: u16,
    #[serde(default = "default_weight")]
    pub(super) weight: u16,
}

fn default_priority() -> u16 {
    1
}

fn default_weight() -> u16 {
    10
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Route {
    pub(super) from: Spanned<String>,
    pub(super) to: Spanned<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Cdr {
    pub(super) path: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Limits {
    pub(super) calls: Spanned<usize>,
}
