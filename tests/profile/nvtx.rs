//! Ranges as a tool hears them. A tool attaches once a process, so each case is a process of its own: this test, run
//! again.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::step;

/// Present in a process that shall run the step.
const CHILD: &str = "NVTX_TEST_CHILD";

#[test]
fn tools_hear_planning_and_launching() {
    if std::env::var_os(CHILD).is_some() {
        step::run();
        return;
    }
    let folder = std::env::temp_dir().join(format!("lacuna-nvtx-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let tool = compile(&folder);
    let mut expected = String::from("domain lacuna\n");
    let mut open = 0;
    for line in step::SEEN.lines() {
        let name = line.trim_start();
        let level = (line.len() - name.len()) / 2;
        expected += &"pop\n".repeat(open - level);
        expected += &format!("push {name}\n");
        open = level + 1;
    }
    expected += &"pop\n".repeat(open);
    assert_eq!(heard(&folder, &tool, false).as_deref(), Some(&expected[..]));
    assert_eq!(heard(&folder, &tool, true).as_deref(), Some("declined\n"));
    // No such library: the program runs all the same.
    assert_eq!(heard(&folder, &folder.join("missing.so"), false), None);
    std::fs::remove_dir_all(&folder).unwrap();
}

fn compile(folder: &Path) -> PathBuf {
    let tool = folder.join("tool.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/profile/injection.c");
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let mut command = Command::new(compiler);
    command.args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o"]).arg(&tool).arg(source);
    assert!(command.status().unwrap().success(), "{command:?}");
    tool
}

/// What a tool wrote while the step ran, if anything.
fn heard(folder: &Path, tool: &Path, decline: bool) -> Option<String> {
    let log = folder.join("log");
    let _ = std::fs::remove_file(&log);
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "nvtx::tools_hear_planning_and_launching"]);
    command.env(CHILD, "1").env("NVTX_INJECTION64_PATH", tool).env("NVTX_TEST_LOG", &log);
    if decline {
        command.env("NVTX_TEST_DECLINE", "1");
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "the child ran no test");
    std::fs::read_to_string(log).ok()
}
