//! References and names: whatever is accepted is shown in a form that means the same.
#![cfg_attr(fuzzing, no_main)]

use fuzz::libfuzzer_sys::fuzz_target;
use image_builder::source::{Name, Reference};

fuzz_target!(|text: &str| {
    if let Ok(name) = text.parse::<Name>() {
        assert_eq!(name.to_string().parse::<Name>().unwrap(), name);
        assert_eq!(name.familiar().parse::<Name>().unwrap(), name);
        assert!(name.digest.is_some() || name.tag.is_some());
        assert!(
            !name.host.contains("..")
                && !name.repository.split('/').any(|part| matches!(part, "" | "." | ".."))
        );
    }
    if let Ok(Reference::Name(name)) = Reference::parse(text) {
        assert!(!text.starts_with(['/', '.', '-']), "{name}");
    }
});
