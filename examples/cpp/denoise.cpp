// Denoises a 16-bit WAV file with a TorchScript file that `quell export` wrote. For little-endian machines, as WAV is.
#include <torch/script.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>

using std::string, std::to_string, std::filesystem::is_regular_file;

void check(bool holds, const string& path, const string& found, const string& expected) {
    if (holds) return;
    std::cerr << path << ": " << found << ", expected " << expected << std::endl;
    std::exit(1);
}

// The samples of a WAV file, (frames, channels): a view of the file's bytes, no copy.
at::Tensor samples_of(string& wav, const string& path, int64_t sample_rate) {
    const string whole = "a whole WAV file of 16-bit PCM; convert it, or copy it again";
    const auto number = [&](size_t at, int width) { int64_t n = 0; std::memcpy(&n, &wav[at], width); return n; };
    check(wav.size() >= 12 && wav.substr(0, 4) + wav.substr(8, 4) == "RIFFWAVE", path, "not a WAV file", whole);
    int64_t format = 0, channels = 0, rate = 0, bits = 0;
    for (size_t at = 12, bytes = 0;; at += bytes + bytes % 2) {  // a chunk of odd length is padded
        check(at + 8 <= wav.size(), path, "cut off before its samples", whole);
        const string name = wav.substr(at, 4);
        bytes = number(at + 4, 4), at += 8;
        check(at + bytes <= wav.size(), path, "cut off", whole);
        if (name == "fmt " && bytes >= 16) {
            format = number(at, 2), channels = number(at + 2, 2), rate = number(at + 4, 4), bits = number(at + 14, 2);
            if (format == 0xFFFE && bytes >= 40) format = number(at + 24, 2);  // an extensible header names it there
        } else if (name == "data") {
            const string found = to_string(bits) + " bits in format " + to_string(format);
            check(format == 1 && bits == 16 && channels > 0, path, found, whole);
            check(rate == sample_rate, path, to_string(rate) + " Hz", to_string(sample_rate) + " Hz; resample it");
            return torch::from_blob(&wav[at], {int64_t(bytes) / 2 / channels, channels}, torch::kInt16);
        }
    }
}

int main(int count, char** arguments) try {
    check(count == 4, "denoise", to_string(count - 1) + " arguments", "3; call it with MODEL IN.wav OUT.wav");
    const string in = arguments[2], out = arguments[3], partial = out + ".part";
    check(is_regular_file(in), in, "no such file", "a WAV file; check the path");
    string wav{std::istreambuf_iterator<char>(std::ifstream(in, std::ios::binary).rdbuf()), {}};
    auto denoise = torch::jit::load(arguments[1], torch::kCPU);
    const auto samples = samples_of(wav, in, denoise.attr("sample_rate").toInt());

    const c10::InferenceMode inference;
    const auto clean = denoise.forward({samples.t().to(torch::kFloat32) / 32768}).toTensor();  // a batch of channels
    samples.copy_((clean.t() * 32768).round().clamp(-32768, 32767));
    check(!std::filesystem::exists(out) || is_regular_file(out), out, "not a file", "one; choose another path");
    auto failed = std::make_error_code(std::errc::io_error);  // unless renamed: OUT appears whole or not at all
    if (std::ofstream(partial, std::ios::binary) << wav << std::flush) std::filesystem::rename(partial, out, failed);
    if (failed) std::remove(partial.c_str());
    check(!failed, out, "cannot be written", "a folder that exists and has room; choose another path");
} catch (const std::exception& error) {  // torch's: what went wrong is the first line, and the rest is where
    const string line(error.what(), std::strcspn(error.what(), "\n")), found = line.substr(0, line.find(". "));
    check(false, arguments[1], found, "a file that `quell export` wrote; export it again");
}
