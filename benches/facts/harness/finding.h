// Facts, measures, and what a check of a fact has found.
#pragma once

#include <stdarg.h>
#include <stdio.h>

namespace facts {

// Keeps the first difference.
class Finding {
 public:
  bool holds() const { return holds_; }
  const char* detail() const { return detail_; }

  void differs(const char* format, ...) __attribute__((format(printf, 2, 3))) {
    if (!holds_) return;
    holds_ = false;
    va_list values;
    va_start(values, format);
    vsnprintf(detail_, sizeof detail_, format, values);
    va_end(values);
  }

 private:
  bool holds_ = true;
  char detail_[512] = "";
};

struct Fact {
  const char* name;
  const char* claim;
  void (*check)(Finding& finding);
};

// Prints its lines itself.
struct Measure {
  const char* name;
  const char* what;
  void (*run)();
};

// A list that a file offers to the program.
template <class Item>
struct List {
  const Item* items;
  int count;
};

template <class Item, int kCount>
constexpr List<Item> list_of(const Item (&items)[kCount]) {
  return {items, kCount};
}

}  // namespace facts
