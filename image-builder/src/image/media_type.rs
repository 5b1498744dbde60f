//! Media types: OCI's and docker's names for the same things, and what is refused by name.

use anyhow::{Result, bail};

/// Whether `media_type` is that of a manifest of one image.
pub fn is_manifest(media_type: &str) -> bool {
    matches!(
        media_type,
        "application/vnd.oci.image.manifest.v1+json" | "application/vnd.docker.distribution.manifest.v2+json"
    )
}

/// Whether `media_type` is that of a list of manifests.
pub fn is_index(media_type: &str) -> bool {
    matches!(
        media_type,
        "application/vnd.oci.image.index.v1+json"
            | "application/vnd.docker.distribution.manifest.list.v2+json"
    )
}

/// Whether `media_type` is that of a container image's config.
pub fn is_config(media_type: &str) -> bool {
    matches!(
        media_type,
        "application/vnd.oci.image.config.v1+json" | "application/vnd.docker.container.image.v1+json"
    )
}

/// Whether `media_type` is that of the manifests of registries before docker 1.10: without digests of content.
pub fn is_schema1(media_type: &str) -> bool {
    media_type.starts_with("application/vnd.docker.distribution.manifest.v1+")
}

/// Accepts the layers that we can read. What their compression is, the blob itself says.
///
/// # Errors
/// Anything else, by name.
pub fn check_layer(media_type: &str) -> Result<()> {
    let (bare, encrypted) = match media_type.strip_suffix("+encrypted") {
        Some(bare) => (bare, true),
        None => (media_type, false),
    };
    // For messages: what a manifest says must not command a terminal.
    let shown = media_type.escape_debug();
    match bare {
        _ if encrypted => bail!(
            "it is encrypted ({shown}), which is not supported; decrypt the image first: skopeo copy --decryption-key"
        ),
        "application/vnd.oci.image.layer.v1.tar"
        | "application/vnd.oci.image.layer.v1.tar+gzip"
        | "application/vnd.oci.image.layer.v1.tar+zstd"
        | "application/vnd.docker.image.rootfs.diff.tar"
        | "application/vnd.docker.image.rootfs.diff.tar.gzip"
        | "application/vnd.docker.image.rootfs.diff.tar.zstd" => Ok(()),
        _ if bare.starts_with("application/vnd.oci.image.layer.nondistributable.")
            || bare.starts_with("application/vnd.docker.image.rootfs.foreign.") =>
        {
            bail!("it is a foreign layer ({shown}), whose content is not part of the image: not supported")
        }
        _ => bail!("media type {media_type:?} is not supported"),
    }
}
