// What the program prints: one JSON object a line, on standard output.
#pragma once

namespace facts {

// The fact or measure that report_lost and give_up speak of.
void set_subject(bool is_fact, const char* name);

void report_fact(const char* name, bool holds, const char* detail);
void report_measure(const char* name, double value, const char* unit, const char* how, ...)
    __attribute__((format(printf, 4, 5)));
// The same with a text as its value.
void report_text(const char* name, const char* value, const char* how);
// For what is neither: no device.
void report_error(const char* what);

// The line of a subject that cannot say what became of it.
void report_lost(const char* format, ...) __attribute__((format(printf, 1, 2)));
// Ends the process with such a line: after an error of the machine nothing that follows could be trusted.
[[noreturn]] void give_up(const char* format, ...) __attribute__((format(printf, 1, 2)));

}  // namespace facts
