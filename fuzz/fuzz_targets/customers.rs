//! Lists of customers: each is rejected with a line that exists, or read so that it can be written again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tantara_bank::{Customer, read_customers};

fn write(customers: &[Customer]) -> String {
    let lines = customers
        .iter()
        .map(|customer| format!("\"{}\",{}\n", customer.name.replace('"', "\"\""), customer.kind.name()));
    std::iter::once("name,type\n".to_owned()).chain(lines).collect()
}

fuzz_target!(|input: &[u8]| {
    match read_customers(input) {
        Ok(customers) => {
            assert!(!customers.is_empty());
            for customer in &customers {
                assert!(!customer.name.is_empty() && !customer.name.contains(char::is_control), "{customer:?}");
            }
            assert_eq!(read_customers(write(&customers).as_bytes()), Ok(customers));
        }
        Err(error) => {
            let lines = input.split(|byte| matches!(byte, b'\n' | b'\r')).count() as u64;
            assert!(error.line().is_none_or(|line| (1..=lines).contains(&line)), "line {:?}: {error}", error.line());
            let text = error.to_string();
            assert!(text.contains("expected") && !text.contains(char::is_control), "{text:?}");
        }
    }
});
