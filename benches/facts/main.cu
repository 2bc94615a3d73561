// facts: checks what the Hopper kernels take for granted of the hardware, and measures its limits. See README.md.
#include <stdio.h>
#include <string.h>

#include <vector>

#include "checks/checks.h"
#include "harness/child.h"
#include "harness/machine.h"
#if !LACUNA_SIMT
#include "measures/measures.h"
#endif

namespace facts {

namespace {

#if LACUNA_SIMT
constexpr int kFactSeconds = 300;
#else
constexpr int kFactSeconds = 20;
#endif
constexpr int kMeasureSeconds = 90;
constexpr int kMostHangs = 4;  // then the rest is not run: something is wrong with the device or with all of them

std::vector<Fact> all_facts() {
  std::vector<Fact> all;
  for (const List<Fact>& list :
       {limit_facts(), load_facts(), store_facts(), bulk_facts(), tile_facts(), product_facts(), attend_facts(),
        gather_facts(), mbarrier_facts(), turn_facts(), register_facts(), pipeline_facts()}) {
    all.insert(all.end(), list.items, list.items + list.count);
  }
  return all;
}

std::vector<Measure> all_measures() {
  std::vector<Measure> all;
#if !LACUNA_SIMT
  for (const List<Measure>& list : {device_measures(), latency_measures(), memory_measures(), cache_measures(),
                                    product_measures(), exponential_measures()}) {
    all.insert(all.end(), list.items, list.items + list.count);
  }
#endif
  return all;
}

// In the child process.
int run_one(const char* name) {
  if (const char* missing = missing_device(); missing != nullptr) {
    report_error(missing);
    return 2;
  }
  if (strcmp(name, "device") == 0) return 0;
  for (const Fact& fact : all_facts()) {
    if (strcmp(fact.name, name) != 0) continue;
    set_subject(true, name);
    Finding finding;
    for (int round = 0; finding.holds() && round < rounds(); ++round) {
      start_round(round);
      fact.check(finding);
    }
    report_fact(name, finding.holds(), finding.detail());
    return finding.holds() ? 0 : 1;
  }
  for (const Measure& measure : all_measures()) {
    if (strcmp(measure.name, name) != 0) continue;
    set_subject(false, name);
    measure.run();
    return 0;
  }
  return 2;
}

// What the child says; a line of its own where it said nothing. Whether all is well.
bool pass_on(bool is_fact, const char* name, int seconds, int* hangs) {
  if (*hangs >= kMostHangs) {
    set_subject(is_fact, name);
    report_lost("not run: %d before it hang", *hangs);
    return false;
  }
  const ChildResult child = run_child(name, seconds);
  fputs(child.output.c_str(), stdout);
  fflush(stdout);
  set_subject(is_fact, name);
  switch (child.end) {
    case End::kTimedOut:
      ++*hangs;
      report_lost("hangs: killed after %d s", seconds);
      return false;
    case End::kSignalled:
      report_lost("ended by signal %d", child.code);
      return false;
    case End::kNotStarted:
      report_lost("no process could be started");
      return false;
    default:
      if (child.output.empty()) report_lost("exit code %d without a word", child.code);
      return child.code == 0;
  }
}

bool selected(const std::vector<const char*>& names, const char* name) {
  if (names.empty()) return true;
  for (const char* wanted : names) {
    if (strcmp(wanted, name) == 0) return true;
  }
  return false;
}

bool known(const char* name) {
  for (const Fact& fact : all_facts()) {
    if (strcmp(fact.name, name) == 0) return true;
  }
  for (const Measure& measure : all_measures()) {
    if (strcmp(measure.name, name) == 0) return true;
  }
  return false;
}

int list_all() {
  for (const Fact& fact : all_facts()) printf("fact     %-24s %s\n", fact.name, fact.claim);
  for (const Measure& measure : all_measures()) printf("measure  %-24s %s\n", measure.name, measure.what);
  return 0;
}

int usage(const char* why, const char* what) {
  fprintf(stderr, "facts: %s%s\nusage: facts [--list | --facts | --measures | NAME...]\n", why, what);
  return 2;
}

int run_program(int count, char** arguments) {
  bool facts = true;
  bool measures = true;
  std::vector<const char*> names;
  for (int i = 1; i < count; ++i) {
    const char* const given = arguments[i];
    if (strcmp(given, "--list") == 0) return list_all();
    if (strcmp(given, "--child") == 0 && i + 1 < count) return run_one(arguments[i + 1]);
    if (strcmp(given, "--facts") == 0) {
      measures = false;
    } else if (strcmp(given, "--measures") == 0) {
      facts = false;
    } else if (known(given)) {
      names.push_back(given);
    } else {
      return usage("no such option, fact or measure: ", given);
    }
  }
  const ChildResult device = run_child("device", kFactSeconds);
  if (device.end != End::kExited || device.code != 0) {
    fputs(device.output.c_str(), stdout);
    if (device.output.empty()) report_error("the device does not answer");
    return device.end == End::kExited && device.code == 2 ? 2 : 1;
  }
  bool well = true;
  int hangs = 0;
  for (const Fact& fact : all_facts()) {
    if (facts && selected(names, fact.name)) well &= pass_on(true, fact.name, kFactSeconds, &hangs);
  }
  for (const Measure& measure : all_measures()) {
    if (measures && selected(names, measure.name)) well &= pass_on(false, measure.name, kMeasureSeconds, &hangs);
  }
  return well ? 0 : 1;
}

}  // namespace

}  // namespace facts

int main(int count, char** arguments) { return facts::run_program(count, arguments); }
