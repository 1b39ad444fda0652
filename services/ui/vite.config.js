import { createHash } from "node:crypto";
import { readFileSync, readdirSync } from "node:fs";
import { defineConfig } from "vite";

// What the build is made of: a test compares it with the sources, for which it needs no Node.
const SOURCES = ["index.html", "package-lock.json", "tsconfig.json", "vite.config.js"];

function fingerprint() {
  const files = [...SOURCES, ...readdirSync("src").map((name) => `src/${name}`)].sort();
  const hash = createHash("sha256");
  for (const file of files) hash.update(file).update("\0").update(readFileSync(file)).update("\0");
  return hash.digest("hex");
}

export default defineConfig({
  build: {
    outDir: "dist",
    target: "es2022",
    modulePreload: false,
    assetsInlineLimit: 0, // the content security policy lets nothing inline run
  },
  oxc: { jsx: { runtime: "automatic", importSource: "preact" } },
  server: { proxy: { "/v1": "http://127.0.0.1:8000" } },
  plugins: [
    {
      name: "fingerprint",
      generateBundle() {
        this.emitFile({ type: "asset", fileName: "sources.sha256", source: fingerprint() });
      },
    },
  ],
});
