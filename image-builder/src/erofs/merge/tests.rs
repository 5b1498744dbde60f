//! Merged disks against a model, and what is refused. The kernel's view is compared in `tests/merged.rs`.

use std::collections::BTreeMap;
use std::io::{self, Cursor, read_to_string};

use super::*;
use crate::erofs::write_layer;
use crate::testimage::Tar;

fn disk(tar: Tar, uuid: u8) -> Vec<u8> {
    let mut disk = Cursor::new(Vec::new());
    write_layer(&tar.finish()[..], [uuid; 16], &mut disk).unwrap();
    disk.into_inner()
}

/// Metadata and data in one piece.
fn merged(layers: &[Vec<u8>]) -> Result<Vec<u8>> {
    let readers = layers.iter().map(Reader::open).collect::<Result<Vec<_>>>()?;
    let mut disk = Cursor::new(Vec::new());
    let summary = merge(&readers, [0xcc; 16], *b"label\0\0\0\0\0\0\0\0\0\0", &mut disk)?;
    let mut disk = disk.into_inner();
    let superblocks: Vec<_> = readers.iter().map(|reader| *reader.superblock()).collect();
    for part in Layout::new(&superblocks)?.parts {
        let [offset, length] = [part.offset, part.length].map(|n| usize::try_from(n).unwrap());
        disk.extend_from_slice(&layers[part.layer][offset..][..length]);
    }
    assert_eq!(disk.len() as u64, summary.length);
    Ok(disk)
}

/// What there is under a name: mode, time, xattrs, then what is in it, and the number of its names.
type Seen = (u16, i64, Vec<Xattr>, String, u32);

fn seen(disk: &[u8]) -> BTreeMap<String, Seen> {
    let reader = Reader::open(disk).unwrap();
    let mut seen = BTreeMap::new();
    let mut look = |path: &[u8], inode: &Inode| {
        let content = match inode.kind {
            Kind::File { .. } => read_to_string(reader.data(inode)?)?,
            Kind::Symlink => format!("-> {}", reader.symlink(inode)?.escape_ascii()),
            other => format!("{other:?}"),
        };
        let links = if inode.kind == Kind::Dir { 0 } else { inode.links };
        let attributes = &inode.attributes;
        let entry = (attributes.mode, attributes.mtime.seconds, reader.xattrs(inode)?, content, links);
        assert!(seen.insert(String::from_utf8(path.to_vec())?, entry).is_none());
        Ok(())
    };
    look(b"", &reader.root().unwrap()).unwrap();
    reader.walk(look).unwrap();
    seen
}

/// One layer of the model, or all of them merged.
#[derive(Clone, Debug)]
enum Node {
    /// Content, the first file of a group of hard links or a file alone; `id` is common to the group.
    File {
        id: usize,
        mode: u16,
    },
    Link,
    Whiteout,
    Dir(Folder),
}

#[derive(Clone, Debug, Default)]
struct Folder {
    mode: u16,
    colour: u8,
    explicit: bool,
    opaque: bool,
    children: BTreeMap<String, Node>,
}

struct Random(u64);

impl Random {
    /// Below `n`. Knuth's MMIX generator: the tests are the same everywhere.
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }

    fn folder(&mut self, depth: usize, files: &mut Vec<(usize, u16)>) -> Folder {
        let mut children = BTreeMap::new();
        for name in ["a", "b", "c", "d"] {
            let node = match self.below(11) {
                0 | 1 => Node::Whiteout,
                2 => Node::Link,
                3 | 4 => {
                    files.push((files.len(), 0o600 + u16::try_from(self.below(64)).unwrap()));
                    let (id, mode) = files[files.len() - 1];
                    Node::File { id, mode }
                }
                5 if !files.is_empty() => {
                    let (id, mode) = files[usize::try_from(self.below(files.len() as u64)).unwrap()];
                    Node::File { id, mode }
                }
                6..=8 if depth > 0 => Node::Dir(self.folder(depth - 1, files)),
                _ => continue,
            };
            children.insert(name.to_owned(), node);
        }
        Folder {
            mode: 0o700 + u16::try_from(self.below(64)).unwrap(),
            colour: u8::try_from(self.below(3)).unwrap(),
            // A directory that is only implied must have something in it.
            explicit: self.below(3) > 0 || children.is_empty(),
            opaque: self.below(5) == 0,
            children,
        }
    }
}

fn content(layer: usize, id: usize) -> String {
    format!("{layer}:{id} ").repeat(id * 700 % 3000)
}

/// The archive of a layer. Its time is its number.
fn archive(
    layer: usize,
    path: &str,
    folder: &Folder,
    named: &mut BTreeMap<usize, String>,
    mut tar: Tar,
) -> Tar {
    let time = layer.to_string();
    if folder.explicit {
        let colour = [folder.colour + b'0'];
        tar = tar.pax(&[("mtime", time.as_bytes()), ("SCHILY.xattr.user.colour", &colour)]);
        tar = tar.dir(if path.is_empty() { "./" } else { path }, folder.mode.into());
    }
    if folder.opaque {
        tar = tar.file(&format!("{path}.wh..wh..opq"), 0, b"");
    }
    for (name, node) in &folder.children {
        let full = format!("{path}{name}");
        match node {
            Node::Whiteout => tar = tar.whiteout(&full),
            // To itself: it leads nowhere, and nothing can be made there.
            Node::Link => tar = tar.pax(&[("mtime", time.as_bytes())]).symlink(&full, name),
            Node::File { id, mode } => match named.get(id) {
                Some(target) => tar = tar.hard_link(&full, target),
                None => {
                    tar = tar.pax(&[("mtime", time.as_bytes())]);
                    tar = tar.file(&full, (*mode).into(), content(layer, *id).as_bytes());
                    named.insert(*id, full);
                }
            },
            Node::Dir(folder) => tar = archive(layer, &format!("{full}/"), folder, named, tar),
        }
    }
    tar
}

/// The model's idea of a tree: nothing but nested maps.
#[derive(Clone)]
enum Model {
    /// (layer, group): mode and content follow.
    File(usize, usize, u16),
    Link(usize),
    Dir {
        mode: u16,
        time: i64,
        colour: Option<u8>,
        children: BTreeMap<String, Model>,
    },
}

/// `lower` with a layer's folder over it. One that has nothing but whiteouts, and no entry, makes no directory.
fn over(lower: Option<Model>, layer: usize, newest: i64, folder: &Folder) -> Option<Model> {
    let time = i64::try_from(layer).unwrap();
    let (mut mode, mut seconds, mut colour, mut children) = (0o755, newest, None, BTreeMap::new());
    let mut is_there = folder.explicit;
    if let Some(Model::Dir { mode: m, time: t, colour: c, children: below }) = &lower {
        (mode, seconds, colour, is_there) = (*m, *t, *c, true);
        if !folder.opaque {
            children = below.clone();
        }
    }
    if folder.explicit {
        (mode, seconds, colour) = (folder.mode, time, Some(folder.colour));
    }
    for (name, node) in &folder.children {
        let below = children.remove(name);
        let node = match node {
            Node::Whiteout => continue,
            Node::Link => Some(Model::Link(layer)),
            Node::File { id, mode } => Some(Model::File(layer, *id, *mode)),
            Node::Dir(folder) => over(below, layer, newest, folder),
        };
        children.extend(node.map(|node| (name.clone(), node)));
    }
    if is_there || !children.is_empty() {
        Some(Model::Dir { mode, time: seconds, colour, children })
    } else {
        lower
    }
}

fn flatten(
    path: &str,
    model: &Model,
    links: &BTreeMap<(usize, usize), u32>,
    all: &mut BTreeMap<String, Seen>,
) {
    let seen = match model {
        Model::File(layer, id, mode) => {
            let time = i64::try_from(*layer).unwrap();
            (*mode, time, Vec::new(), content(*layer, *id), links[&(*layer, *id)])
        }
        Model::Link(layer) => {
            let name = path.rsplit('/').next().unwrap();
            (0o777, i64::try_from(*layer).unwrap(), Vec::new(), format!("-> {name}"), 1)
        }
        Model::Dir { mode, time, colour, children } => {
            let xattr = |colour| Xattr { name: b"user.colour".to_vec(), value: vec![colour + b'0'] };
            let separator = if path.is_empty() { "" } else { "/" };
            for (name, child) in children {
                flatten(&format!("{path}{separator}{name}"), child, links, all);
            }
            (*mode, *time, colour.map(xattr).into_iter().collect(), "Dir".to_owned(), 0)
        }
    };
    all.insert(path.to_owned(), seen);
}

fn count(model: &Model, links: &mut BTreeMap<(usize, usize), u32>) {
    match model {
        Model::File(layer, id, _) => *links.entry((*layer, *id)).or_default() += 1,
        Model::Link(_) => {}
        Model::Dir { children, .. } => children.values().for_each(|child| count(child, links)),
    }
}

#[test]
fn random_stacks_equal_the_model() {
    let mut random = Random(1);
    for _ in 0..200 {
        let (mut model, mut disks) = (None, Vec::new());
        for layer in 1..=usize::try_from(1 + random.below(6)).unwrap() {
            let mut folder = random.folder(3, &mut Vec::new());
            folder.explicit |= layer == 1;
            disks.push(disk(
                archive(layer, "", &folder, &mut BTreeMap::new(), Tar::new()),
                u8::try_from(layer).unwrap(),
            ));
            model = over(model, layer, layer.try_into().unwrap(), &folder);
        }
        let (mut links, mut expected) = (BTreeMap::new(), BTreeMap::new());
        let model = model.unwrap();
        count(&model, &mut links);
        flatten("", &model, &links, &mut expected);
        let disk = merged(&disks).unwrap();
        let seen = seen(&disk);
        // Not `assert_eq`: it would print all files.
        let paths = seen.keys().chain(expected.keys());
        let wrong: Vec<_> = paths.filter(|path| seen.get(*path) != expected.get(*path)).collect();
        assert!(wrong.is_empty(), "{wrong:?}");
        assert!(merged(&disks).unwrap() == disk, "the same layers give the same bytes");
    }
}

#[test]
fn implied_directories_leave_what_is_there() {
    let lower = Tar::new()
        .dir("tmp", 0o1777)
        .dir("usr/lib", 0o711)
        .symlink("lib", "usr/lib")
        .symlink("abs", "/lib/../lib")
        .symlink("out", "../../../usr")
        .symlink("dangling", "/usr/run/../run")
        .symlink("loop", "loop")
        .file("file", 0o644, b"");
    let upper = Tar::new()
        .file("tmp/x", 0o644, b"")
        .file("lib/by-link", 0o644, b"")
        .file("abs/by-two", 0o644, b"")
        .file("out/clamped", 0o644, b"")
        .file("dangling/made", 0o644, b"")
        .file("loop/x", 0o644, b"")
        .file("file/x", 0o644, b"");
    let seen = seen(&merged(&[disk(lower, 1), disk(upper, 2)]).unwrap());
    assert_eq!((seen["tmp"].0, seen["usr/lib"].0), (0o1777, 0o711));
    for path in
        ["tmp/x", "usr/lib/by-link", "usr/lib/by-two", "usr/clamped", "usr/run/made", "loop/x", "file/x"]
    {
        assert!(seen.contains_key(path), "{path}");
    }
    assert_eq!((seen["lib"].3.as_str(), seen["usr/run"].0), ("-> usr/lib", 0o755));
    assert_eq!((seen["loop"].0, seen["file"].0), (0o755, 0o755), "no directory: replaced");
}

#[test]
fn whiteouts_are_about_lower_layers_alone() {
    let lower = || {
        let tar = Tar::new().symlink("d", "/c").symlink("a", "/z").symlink("gone", "/c");
        tar.file("c/b", 0o644, b"below").file("z/b", 0o644, b"below").file("z/c", 0o644, b"below")
    };
    // Of each pair one comes before the other, whatever the order of a walk.
    let upper = Tar::new()
        .whiteout("c/b")
        .file("d/b", 0o644, b"above")
        .whiteout("z/b")
        .file("a/b", 0o644, b"above")
        .file("a/new", 0o644, b"above")
        .file("z/.wh..wh..opq", 0, b"")
        .whiteout("gone");
    let through = Tar::new().whiteout("c").whiteout("d/b").whiteout("a/b").whiteout("z/c");
    let both = seen(&merged(&[disk(lower(), 1), disk(upper, 2)]).unwrap());
    for path in ["c/b", "z/b", "z/new"] {
        assert_eq!(both.get(path).map(|seen| seen.3.as_str()), Some("above"), "{path}");
    }
    assert!(!both.contains_key("z/c") && !both.contains_key("gone"));
    let through = seen(&merged(&[disk(lower(), 1), disk(through, 2)]).unwrap());
    assert!(!through.contains_key("z/b") && !through.contains_key("z/c"), "{:?}", through.keys());
}

/// With the directory go its attributes, as in umoci; there only if the whiteout comes first, here in either order. An opaque
/// mark takes only what is in it.
#[test]
fn a_directory_that_is_deleted_comes_back_as_a_new_one() {
    let lower = ["before", "after", "opaque"].into_iter().fold(Tar::new(), |tar, name| {
        tar.pax(&[("SCHILY.xattr.user.a", b"b"), ("mtime", b"1")]).dir(name, 0o1777).file(
            &format!("{name}/old"),
            0o644,
            b"",
        )
    });
    let upper = Tar::new()
        .whiteout("before")
        .pax(&[("mtime", b"7")])
        .file("before/new", 0o644, b"")
        .file("after/new", 0o644, b"")
        .whiteout("after")
        .file("opaque/.wh..wh..opq", 0, b"")
        .file("opaque/new", 0o644, b"");
    let seen = seen(&merged(&[disk(lower, 1), disk(upper, 2)]).unwrap());
    for (name, attributes) in
        [("before", (0o755, 7, 0)), ("after", (0o755, 7, 0)), ("opaque", (0o1777, 1, 1))]
    {
        let dir = &seen[name];
        assert_eq!((dir.0, dir.1, dir.2.len()), attributes, "{name}");
        assert!(seen.contains_key(&format!("{name}/new")) && !seen.contains_key(&format!("{name}/old")));
    }
}

#[test]
fn whiteouts_alone_make_no_directories() {
    let lower = Tar::new().file("file", 0o644, b"below").symlink("link", "/no/where").dir("kept", 0o711);
    let upper = Tar::new()
        .whiteout("a/b/c")
        .file("a/opaque/.wh..wh..opq", 0, b"")
        .whiteout("file/x")
        .whiteout("link/x")
        .whiteout("kept/x")
        .whiteout("own/x")
        .dir("own", 0o700);
    let seen = seen(&merged(&[disk(lower, 1), disk(upper, 2)]).unwrap());
    assert_eq!(seen.keys().collect::<Vec<_>>(), ["", "file", "kept", "link", "own"]);
    let contents = ["file", "link", "kept", "own"].map(|name| seen[name].3.as_str());
    assert_eq!(contents, ["below", "-> /no/where", "Dir", "Dir"]);
}

#[test]
fn repeated_layers_stand_on_the_disk_once() {
    let file = |name: &str, length| Tar::new().file(name, 0o644, &vec![b'x'; length]);
    let layers =
        [disk(file("a", 5000), 1), disk(Tar::new().whiteout("a").whiteout("b"), 2), disk(file("a", 5000), 1)];
    let superblocks = layers.each_ref().map(|layer| *Reader::open(layer).unwrap().superblock());
    let layout = Layout::new(&superblocks).unwrap();
    assert_eq!(layout.parts, [Part { layer: 0, offset: 4096, length: 8192 }]);
    assert_eq!(seen(&merged(&layers).unwrap())["a"].3.len(), 5000);
}

#[test]
fn what_is_too_large_or_damaged_is_refused() {
    let huge = |uuid| Superblock {
        uuid: [uuid; 16],
        label: [0; 15],
        blocks: u32::MAX,
        meta_block: 1 << 31,
        root_nid: 2,
        inodes: 1,
    };
    Layout::new(&[huge(1), huge(1)]).unwrap();
    let error = format!("{:#}", Layout::new(&[huge(1), huge(2), huge(3)]).unwrap_err());
    assert!(error.contains("with layer 3 of 3, the image passes 16 TiB"), "{error}");

    let tar = || Tar::new().file("f", 0o644, b"x");
    let mut damaged = disk(tar(), 2);
    let nid = Reader::open(&damaged).unwrap().find(b"f").unwrap().unwrap().nid;
    let at = 2 * 4096 + usize::try_from(nid).unwrap() * 32 + 16;
    damaged[at] = 0; // its data in the superblock's block
    let error = format!("{:#}", merged(&[disk(tar(), 1), damaged]).unwrap_err());
    assert!(
        error.contains("layer 2 of 2: \"f\": inode") && error.contains("its data are not where"),
        "{error}"
    );
}

/// There is no limit but memory and the format's, and nothing grows with the square of the layers.
#[test]
fn a_thousand_layers() {
    let layer = |number: u16| {
        let bytes = number.to_le_bytes();
        let tar = Tar::new().file(&format!("d/{number}"), 0o644, &bytes).file("last", 0o644, &bytes);
        let mut disk = Cursor::new(Vec::new());
        let uuid: [u8; 16] = bytes.repeat(8).try_into().unwrap();
        write_layer(&tar.finish()[..], uuid, &mut disk).unwrap();
        disk.into_inner()
    };
    let disk = merged(&(0..1000).map(layer).collect::<Vec<_>>()).unwrap();
    let reader = Reader::open(&disk).unwrap();
    for (path, number) in [("d/0", 0u16), ("d/999", 999), ("last", 999)] {
        let file = reader.find(path.as_bytes()).unwrap().unwrap();
        let mut data = Vec::new();
        io::copy(&mut reader.data(&file).unwrap(), &mut data).unwrap();
        assert_eq!(data, number.to_le_bytes());
    }
}
