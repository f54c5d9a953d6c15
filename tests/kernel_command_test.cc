// `sporkle kernel`: every stage of a kernel on its way to machine code, and the interpreter as a debugger.
#include "tests/command.h"

namespace sporkle::testing {
namespace {

class KernelCommandTest : public CommandTest {
 protected:
  static std::string example(const std::string& name) {
    return std::string(SPORKLE_SOURCE_DIR) + "/examples/kernels/" + name + ".ir";
  }
  std::string succeed(const Arguments& arguments) {
    const Output output = run(arguments);
    EXPECT_EQ(output.exit_code, 0) << output.err;
    return output.out;
  }
  static void expect_parts(const std::string& text, const std::vector<std::string>& parts) {
    for (const std::string& part : parts) EXPECT_NE(text.find(part), std::string::npos) << part << "\nin\n" << text;
  }
};

TEST_F(KernelCommandTest, ShowsEveryStage) {
  const std::string all = succeed({"kernel", "show", example("softmax"), "--schedule", "r:thread c:vec8"});
  expect_parts(all, {"== trace ==\nkernel \"softmax\" strict", "== expand_math ==", "== apply_schedule ==",
                     "== expand_lanes ==", "== llvm ==", "define ", "== assembly ==", "sporkle_kernel"});
}

TEST_F(KernelCommandTest, ShowsOneStageAlone) {
  const std::string lowered =
      succeed({"kernel", "show", example("saxpy"), "--schedule", "i:vec8", "--stage", "lowered"});
  EXPECT_TRUE(lowered.starts_with("kernel \"saxpy\" strict")) << lowered;
  expect_parts(lowered, {"range vector 8"});
  EXPECT_EQ(succeed({"kernel", "show", example("saxpy"), "--schedule", "i:vec8", "--stage", "expand_lanes"}), lowered);
  expect_parts(succeed({"kernel", "show", example("saxpy"), "--target", "aarch64", "--schedule", "i:vec4", "--stage",
                        "assembly"}),
               {"fmla"});
  expect_parts(succeed({"kernel", "show", example("saxpy"), "--target", "cpu:x86-64-v3", "--stage", "assembly"}),
               {"vfmadd"});
}

TEST_F(KernelCommandTest, ExplainsWhatCannotBeShown) {
  expect_failure({"kernel", "show", "none.ir"}, {"none.ir", "No such file"});
  write("bad.ir", "kernel \"x\" strict\nbufer x@0 f32 read\n");
  expect_failure({"kernel", "show", "bad.ir"}, {"bad.ir", "line 2"});
  expect_failure({"kernel", "show", example("saxpy"), "--stage", "asembly"}, {"asembly", "did you mean assembly?"});
  expect_failure({"kernel", "show", example("saxpy"), "--target", "gpu"}, {"no code generator for target \"gpu\""});
  expect_failure({"kernel", "show", example("saxpy"), "--schedule", "j:vec8"}, {"j"});
}

TEST_F(KernelCommandTest, RunsOnTheDeviceAndComparesBits) {
  const std::string out =
      succeed({"kernel", "run", example("saxpy"), "--inputs", "x=1,2,3", "y=ones:3", "--scalar", "n=3", "a=0.5"});
  expect_parts(out, {"interpreted in 6 steps", "on cpu (", "the same bits", "y, 3 x f32: 1.5 2 2.5\n"});
  expect_parts(succeed({"kernel", "run", example("softmax"), "--schedule", "r:thread c:vec4", "--inputs",
                        "x=random:300", "y=empty:300", "--scalar", "rows=3", "n=100"}),
               {"the same bits"});
}

TEST_F(KernelCommandTest, ReadsBuffersFromFiles) {
  const float values[] = {2, 4};
  write("x.bin", std::string_view(reinterpret_cast<const char*>(values), sizeof values));
  const std::string out = succeed({"kernel", "run", example("saxpy"), "--interpret", "--inputs", "x=x.bin", "y=index:2",
                                   "--scalar", "n=2", "a=1", "--print", "y:1", "x"});
  expect_parts(out, {"y, 2 x f32: 2 ...\n", "x, 2 x f32: 2 4\n"});
  write("short.bin", "abc");
  expect_failure({"kernel", "run", example("saxpy"), "--inputs", "x=short.bin", "y=ones:1", "--scalar", "n=1", "a=1"},
                 {"short.bin", "3 bytes are not whole elements of 4"});
}

TEST_F(KernelCommandTest, ShowsAWatchedValueAtAnIndex) {
  const Arguments softmax = {"kernel",    "run",      example("softmax"), "--interpret", "--inputs", "x=1,2,3,4",
                             "y=empty:4", "--scalar", "rows=2",           "n=2",         "--watch"};
  Arguments one = softmax;
  one.push_back("%5@r=1,b=0");
  const std::string out = succeed(one);
  expect_parts(out, {"line 17, %5, where r = 1, b = 0: 3\n"});
  EXPECT_EQ(occurrences(out, "%5"), 1u);
  Arguments all = softmax;
  all.insert(all.end(), {"5", "--watch-limit", "3"});
  expect_parts(succeed(all), {"... and 1 values more"});
}

TEST_F(KernelCommandTest, FindsReadsOfWhatWasNeverWritten) {
  expect_failure(
      {"kernel", "run", example("wrong_sum"), "--inputs", "x=ones:4", "y=empty:1", "--scalar", "n=4"},
      {"wrong_sum.ir", "load of scratch \"t\" reads element 3, which was never written", "(line 15, where k = 3)"});
  expect_failure(
      {"kernel", "run", example("saxpy"), "--interpret", "--inputs", "x=ones:4", "y=empty:4", "--scalar", "n=4", "a=1"},
      {"load of buffer \"y\" reads element 0, which was never written", "(line 10, where i = 0)"});
}

TEST_F(KernelCommandTest, FindsAccessesOutOfBoundsBeforeTheDeviceMakesThem) {
  expect_failure({"kernel", "run", example("saxpy"), "--inputs", "x=ones:4", "y=ones:3", "--scalar", "n=4", "a=1"},
                 {"load of buffer \"y\" at index 3 is outside its 3 elements", "(line 10, where i = 3)"});
}

TEST_F(KernelCommandTest, SaysWhichElementsWereNotWritten) {
  expect_parts(succeed({"kernel", "run", example("softmax"), "--interpret", "--inputs", "x=ones:4", "y=empty:6",
                        "--scalar", "rows=2", "n=2"}),
               {"y: 2 of 6 elements were never written"});
}

TEST_F(KernelCommandTest, StopsAfterTooManySteps) {
  expect_failure({"kernel", "run", example("saxpy"), "--interpret", "--inputs", "x=ones:400", "y=ones:400", "--scalar",
                  "n=400", "a=1", "--max-steps", "10"},
                 {"(line ", "--max-steps"});
}

TEST_F(KernelCommandTest, ExplainsArguments) {
  const auto with = [&](const Arguments& rest) {
    Arguments arguments = {"kernel", "run", example("saxpy"), "--interpret"};
    arguments.insert(arguments.end(), rest.begin(), rest.end());
    return arguments;
  };
  expect_failure(with({}), {"for x, y"});
  expect_failure(with({"--inputs", "x=ones:2", "y=ones:2"}), {"--scalar NAME=VALUE for n, a"});
  expect_failure(with({"--inputs", "x"}), {"expected NAME=VALUE"});
  expect_failure(with({"--inputs", "z=ones:2"}), {"no buffer \"z\"", "it has x, y"});
  expect_failure(with({"--inputs", "x=ones:2", "x=ones:2"}), {"x is given twice"});
  expect_failure(with({"--inputs", "x=randm:2"}), {"did you mean random:COUNT?"});
  expect_failure(with({"--inputs", "x=ones:many"}), {"\"many\" is no number of elements"});
  const Arguments inputs = {"--inputs", "x=ones:2", "y=ones:2", "--scalar"};
  const auto scalars = [&](const Arguments& rest) {
    Arguments arguments = inputs;
    arguments.insert(arguments.end(), rest.begin(), rest.end());
    return with(arguments);
  };
  expect_failure(scalars({"n=1.5", "a=1"}), {"\"1.5\" is no i64"});
  expect_failure(scalars({"m=1"}), {"no scalar \"m\"", "it has n, a"});
  expect_failure(scalars({"n=2", "a=1", "--watch", "%9"}), {"no node %9", "%0 to %2"});
  expect_failure(scalars({"n=2", "a=1", "--watch", "%2@j=1"}), {"does not depend on a range \"j\"", "it depends on i"});
  expect_failure(scalars({"n=2", "a=1", "--watch", "%2@i"}), {"\"i\" is no index"});
  expect_failure(scalars({"n=2", "a=1", "--watch", "i#0"}), {"is a range"});
  expect_failure(scalars({"n=2", "a=1", "--print", "yy"}), {"no buffer \"yy\"", "did you mean y?"});
  expect_failure(scalars({"n=2", "a=1", "--print", "y:x"}), {"\"x\" is no number of elements"});
  expect_failure(scalars({"n=2", "a=1", "--unchecked"}), {"exclude each other"});
  expect_failure({"kernel", "run", example("saxpy"), "--device", "cpx", "--inputs", "x=ones:2", "y=ones:2", "--scalar",
                  "n=2", "a=1"},
                 {"unknown device \"cpx\""});
}

}  // namespace
}  // namespace sporkle::testing
