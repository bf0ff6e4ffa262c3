// Runs the toy exchanges against plain loops: program <mistake> [case ...], see toy_checks.h.
#include "async_toys.h"
#include "toy_checks.h"

namespace {

bool check_cluster() {
  const Rnn rnn(4 * Rnn::blocks);
  Vector out(Rnn::steps * rnn.H, NAN);
  const int error = toy::all_gather_cluster(rnn.W.data(), rnn.x.data(), out.data(), Rnn::steps, Rnn::blocks, nullptr);
  return launched("cluster", error) && close("cluster", out, rnn.expected, 1e-5);
}

bool check_grid() {
  struct alignas(16) Unit {
    char bytes[16];
  };
  const Rnn rnn(3 * Rnn::blocks);
  Vector out(Rnn::steps * rnn.H, NAN);
  std::vector<Unit> units(3 * Rnn::blocks, Unit{});
  const int error =
      toy::all_gather_grid(rnn.W.data(), rnn.x.data(), out.data(), Rnn::steps, Rnn::blocks, units.data(), nullptr);
  return launched("grid", error) && close("grid", out, rnn.expected, 1e-5);
}

bool check_pass_on() {
  constexpr int n = 48;
  unsigned flags[2] = {};
  Vector data = normal(n), out(n, NAN), expected(n);
  for (int i = 0; i < n; i++) expected[i] = 2 * data[i] + 1;
  const int error = toy::pass_on(data.data(), out.data(), n, flags, nullptr);
  return launched("pass_on", error) && close("pass_on", out, expected, 1e-5);
}

bool check_bulk() {
  constexpr int n = 32, blocks = 4;
  alignas(16) static float data[blocks * n];
  Vector out(blocks * n, NAN), expected(blocks * n);
  for (float& value : data) value = normal(1)[0];
  for (int i = 0; i < blocks * n; i++) expected[i] = data[i % n] + data[(i / n + blocks - 1) % blocks * n + i % n];
  const int error = toy::bulk_ring(data, out.data(), n, blocks, nullptr);
  return launched("bulk", error) && close("bulk", out, expected, 1e-6);
}

bool check_bulk_after_flag() {
  constexpr int n = 64, blocks = 4;
  alignas(16) static float data[n];
  Vector out(blocks * n, NAN), expected(blocks * n);
  unsigned flag = 0;
  for (float& value : data) value = normal(1)[0];
  for (int i = 0; i < blocks * n; i++) expected[i] = data[i % n] + 1;
  const int error = toy::bulk_after_flag(data, out.data(), n, blocks, &flag, nullptr);
  return launched("bulk_after_flag", error) && close("bulk_after_flag", out, expected, 1e-6);
}

const std::map<std::string, std::function<bool()>> kCases = {
    {"cluster", check_cluster},
    {"grid", check_grid},
    {"pass_on", check_pass_on},
    {"bulk", check_bulk},
    {"bulk_after_flag", check_bulk_after_flag},
};

}  // namespace

int main(int argc, char** argv) { return run_cases(argc, argv, kCases, &planted_mistake); }
