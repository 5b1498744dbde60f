//! Images of several layers: what one does to those below it (image-spec, layer.md, "Applying Changesets").
//!
//! Each directory has an entry in each layer that has something in it: umoci unpacks onto the tree of the layers below, and
//! keeps what that says of a directory without one; overlayfs cannot.

use image_builder::testimage::Tar;
use tar::EntryType;

/// An image.
pub struct Stack {
    pub name: &'static str,
    /// From the lowest up.
    pub layers: Vec<Tar>,
    /// Directories that umoci gives the time of unpacking: a whiteout that comes after them removes something from them.
    pub touched: &'static [&'static str],
}

pub fn stacks() -> Vec<Stack> {
    let stack = |name, layers| Stack { name, layers, touched: &[] };
    let rotated =
        vec![all_kinds(b"1", |i| i), all_kinds(b"22", |i| (i + 1) % 5), all_kinds(b"333", |i| (i + 3) % 5)];
    vec![
        stack("kinds_change", rotated),
        stack("kinds_change_within_a_layer", vec![full(), repeated()]),
        stack("whiteouts", vec![full(), whiteouts()]),
        Stack {
            touched: &["c", "d/sub", "d/sub/sub"],
            ..stack("whiteouts_after", vec![full(), whiteouts_after()])
        },
        Stack { touched: &["a", "a/sub"], ..stack("whiteouts_implied", vec![full(), implied()]) },
        stack("whiteouts_undone", vec![full(), whiteouts(), full(), whiteouts_after(), full()]),
        stack("opaque", vec![full(), opaque(true)]),
        Stack { touched: &["a/sub"], ..stack("opaque_after", vec![full(), opaque(false)]) },
        stack("attributes", vec![full(), attributes()]),
        stack("links", vec![full(), links()]),
    ]
}

fn root() -> Tar {
    Tar::new().dir("./", 0o755)
}

/// For each pair of kinds of five an entry; which second kind each has, `kind` says.
fn all_kinds(data: &[u8], kind: fn(usize) -> usize) -> Tar {
    (0..5).fold(root(), |tar, i| {
        let path = format!("x{i}");
        match kind(i) {
            0 => tar.file(&path, 0o600, data),
            1 => tar.dir(&path, 0o700).file(&format!("{path}/{}", data.len()), 0o600, data),
            2 => tar.symlink(&path, "target"),
            3 => tar.entry(&path, EntryType::Fifo, 0o600, b"", |_| {}),
            _ => tar.entry(&path, EntryType::Char, 0o600, b"", |header| {
                header.set_device_major(1).and_then(|()| header.set_device_minor(7)).expect("they fit");
            }),
        }
    })
}

/// Something in everything.
fn full() -> Tar {
    ["a", "b", "c", "d"].into_iter().fold(root(), |tar, dir| {
        let at = |name: &str| format!("{dir}/{name}");
        tar.dir(dir, 0o755)
            .file(&at("file"), 0o644, b"below")
            .file(&at("other"), 0o644, b"below")
            .dir(&at("sub"), 0o750)
            .file(&at("sub/file"), 0o644, b"below")
            .dir(&at("sub/sub"), 0o750)
            .file(&at("sub/sub/file"), 0o644, b"below")
            .symlink(&at("symlink"), "file")
            .hard_link(&at("hard"), &at("file"))
    })
}

/// Non-empty directories replaced, and what replaced them too.
fn repeated() -> Tar {
    root()
        .dir("a", 0o755)
        .dir("a/sub", 0o700)
        .file("a/sub/new", 0o600, b"above")
        .file("a/sub", 0o600, b"a file now")
        .dir("b", 0o755)
        .file("b/sub", 0o600, b"a file at first")
        .dir("b/sub", 0o700)
        .file("b/sub/new", 0o600, b"above")
        .dir("c", 0o755)
        .symlink("c/sub", "../b")
        .dir("c/sub", 0o711)
        .dir("d", 0o755)
        .dir("d/sub", 0o755)
        .symlink("d/sub", "../a")
        .file("d/file", 0o600, b"one")
        .file("d/file", 0o600, b"two")
        .file("d/symlink", 0o600, b"through nothing")
}

fn whiteouts() -> Tar {
    root()
        .whiteout("a")
        .dir("b", 0o755)
        .whiteout("b/file")
        .whiteout("b/sub")
        .whiteout("b/symlink")
        .whiteout("b/never-was")
        .whiteout("c")
        .dir("c", 0o700)
        .file("c/new", 0o600, b"above")
        .dir("d", 0o755)
        .dir("d/sub", 0o755)
        .whiteout("d/sub/sub")
        .whiteout("d/file")
        .file("d/file", 0o600, b"above")
}

/// The same, where the whiteouts stand after what they do not hide.
fn whiteouts_after() -> Tar {
    root()
        .dir("c", 0o700)
        .file("c/new", 0o600, b"above")
        .whiteout("c")
        .dir("d", 0o755)
        .file("d/file", 0o600, b"above")
        .whiteout("d/file")
        .dir("d/sub", 0o755)
        .dir("d/sub/sub", 0o755)
        .file("d/sub/sub/new", 0o600, b"above")
        .whiteout("d/sub")
        .symlink("d/symlink", "above")
        .whiteout("d/symlink")
}

/// A directory that is deleted and comes back without an entry: nothing of the lower one is left, so this overlayfs can.
fn implied() -> Tar {
    root().dir("a", 0o755).whiteout("a/sub").file("a/sub/new", 0o600, b"above")
}

fn opaque(first: bool) -> Tar {
    let mark =
        |tar: Tar, now, dir: &str| if now { tar.file(&format!("{dir}/.wh..wh..opq"), 0, b"") } else { tar };
    let tar = mark(root().dir("a", 0o700), first, "a").file("a/file", 0o600, b"above").dir("a/sub", 0o755);
    let tar = mark(tar, !first, "a").dir("b", 0o755).dir("b/sub", 0o700);
    mark(mark(tar, true, "b/sub").dir("c", 0o711), true, "c")
}

/// A directory's attributes are the topmost layer's, xattrs among them; what is in it stays.
fn attributes() -> Tar {
    root()
        .pax(&[
            ("mtime", b"5.5"),
            ("uid", b"70000"),
            ("SCHILY.xattr.user.a", b"b"),
            ("SCHILY.xattr.trusted.c", b"d"),
        ])
        .dir("a", 0o1777)
        .dir("a/sub", 0o2711)
        .pax(&[("SCHILY.xattr.user.a", b"b")])
        .file("b/file", 0o4755, b"above")
        .dir("b", 0o700)
}

fn links() -> Tar {
    root()
        .dir("a", 0o755)
        .file("a/file", 0o600, b"above")
        .hard_link("a/other", "a/file")
        .dir("b", 0o755)
        .hard_link("b/file", "a/file")
        .symlink("b/symlink", "other")
        .hard_link("b/new", "b/symlink")
}
