//! A folder of a volume in place of all of it: what is seen, and that nothing on the volume leads out of it.

use crate::harness::{Test, command_with_store, temporary};
use crate::tests;
use anyhow::{Result, ensure};
use std::process::Output;

pub fn tests() -> Vec<Test> {
    tests![a_folder_of_a_volume]
}

fn a_folder_of_a_volume() -> Result<()> {
    let dir = temporary()?;
    let run = |options: &[&str], script: &str| -> Result<Output> {
        Ok(command_with_store(dir.path(), "subpath", options, &["sh", "-c", script]).output()?)
    };
    let gives = |output: Output, code: i32, words: &str| {
        let text = String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned();
        ensure!(output.status.code() == Some(code) && text.contains(words), "not {code}, {words:?}: {text}");
        Ok(())
    };
    let script = "cd /data && mkdir -p a/b && echo text > a/b/file && ln -s a in && ln -s / out && ln -s ../.. a/up && ln -s /etc a/etc";
    gives(run(&["-v", "parts:/data"], script)?, 0, "")?;
    let mount = |subpath: &str| format!("type=volume,src=parts,dst=/d,volume-subpath={subpath}");
    // By way of a link that stays on it; empty or not, it gets nothing of the image's.
    let script = "echo $(ls -A /d) $(cat /d/file) $(grep -c ' /d ext4 rw' /proc/mounts); mkdir /d/new";
    gives(run(&["--mount", &mount("in/b")], script)?, 0, "file text 1\n")?;
    gives(run(&["--mount", &format!("{},readonly", mount("a/b"))], "ls /d; touch /d/x")?, 1, "file\nnew\n")?;
    for bad in ["out", "a/up", "a/etc", "none", "a/b/file"] {
        let error = format!("opening the folder {bad:?} of volume \"parts\"");
        gives(run(&["--mount", &mount(bad)], "true")?, 125, &error)?;
    }
    Ok(())
}
