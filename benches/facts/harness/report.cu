#include "harness/report.h"

#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

namespace facts {

namespace {

const char* subject = "facts";
bool subject_is_fact = false;

void print_text(const char* text) {
  putchar('"');
  for (const char* at = text; *at != 0; ++at) {
    const unsigned char c = static_cast<unsigned char>(*at);
    if (c == '"' || c == '\\') putchar('\\');
    if (c < 0x20) {
      printf("\\u%04x", c);
    } else {
      putchar(c);
    }
  }
  putchar('"');
}

void print_field(const char* name, const char* text) {
  printf("\"%s\": ", name);
  print_text(text);
}

void end_line() {
  puts("}");
  fflush(stdout);
}

void print_lost(const char* format, va_list values) {
  char text[1024];
  vsnprintf(text, sizeof text, format, values);
  if (subject_is_fact) {
    report_fact(subject, false, text);
    return;
  }
  putchar('{');
  print_field("measure", subject);
  printf(", \"value\": null, ");
  print_field("error", text);
  end_line();
}

}  // namespace

void set_subject(bool is_fact, const char* name) {
  subject = name;
  subject_is_fact = is_fact;
}

void report_fact(const char* name, bool holds, const char* detail) {
  putchar('{');
  print_field("fact", name);
  printf(", \"holds\": %s, ", holds ? "true" : "false");
  print_field("detail", detail);
  end_line();
}

void report_measure(const char* name, double value, const char* unit, const char* how, ...) {
  char text[512];
  va_list values;
  va_start(values, how);
  vsnprintf(text, sizeof text, how, values);
  va_end(values);
  putchar('{');
  print_field("measure", name);
  printf(", \"value\": %.6g, ", value);
  print_field("unit", unit);
  printf(", ");
  print_field("how", text);
  end_line();
}

void report_text(const char* name, const char* value, const char* how) {
  putchar('{');
  print_field("measure", name);
  printf(", ");
  print_field("value", value);
  printf(", \"unit\": \"\", ");
  print_field("how", how);
  end_line();
}

void report_error(const char* what) {
  putchar('{');
  print_field("error", what);
  end_line();
}

void report_lost(const char* format, ...) {
  va_list values;
  va_start(values, format);
  print_lost(format, values);
  va_end(values);
}

void give_up(const char* format, ...) {
  va_list values;
  va_start(values, format);
  print_lost(format, values);
  va_end(values);
  // No destructors: those of a runtime that has failed may wait for ever.
  _exit(1);
}

}  // namespace facts
