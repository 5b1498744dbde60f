//! What is written down of a volume.

use std::collections::BTreeMap;

use protocol::Uuid;
use serde::{Deserialize, Serialize};

use super::nfs::Export;

/// What a volume is. Written once, when it is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Record {
    /// Its folder's name.
    pub name: String,
    /// What the guest finds its disk by.
    pub uuid: Uuid,
    /// When it was made: seconds since 1970.
    pub created: u64,
    /// What the user says of it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Where it is, if it has no disk here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nfs: Option<Export>,
    /// Whether nobody has named it: then it goes with its container, where that is asked for.
    #[serde(default)]
    pub anonymous: bool,
}
