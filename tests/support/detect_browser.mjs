// A real Chromium at the page of `detect --serve`: node detect_browser.mjs PLAYWRIGHT CHROMIUM URL IMAGE BROKEN SHOTS
// Chooses a file, drops one, drops a broken one, and prints what was seen as JSON.
import { readFileSync } from "node:fs";
import { join } from "node:path";

const [library, executablePath, url, image, broken, shots] = process.argv.slice(2);
const { chromium } = await import(library);
const browser = await chromium.launch({
  executablePath,
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync"],
});
const said = { errors: [], requests: [], seen: [] };
for (const colorScheme of ["light", "dark"]) {
  const context = await browser.newContext({ colorScheme, viewport: { width: 1000, height: 1600 } });
  const page = await context.newPage();
  page.on("console", (message) => message.type() === "error" && said.errors.push(message.text()));
  page.on("pageerror", (error) => said.errors.push(String(error)));
  page.on("request", (request) => said.requests.push(request.url()));
  // WCAG 2.2's contrast of two colours; the faintest text there is must reach 4.5.
  await page.addInitScript(() => {
    const light = (colour) => {
      const [r, g, b] = colour.match(/[\d.]+/g).map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
      return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
    };
    window.contrast = (one, other) => Math.max(light(one), light(other)) / Math.min(light(one), light(other));
  });
  await page.goto(url);

  const seen = async (how) => {
    await page.waitForFunction(() => !document.getElementById("status").textContent.endsWith("…"));
    const found = await page.evaluate(() => ({
      status: document.getElementById("status").textContent,
      verdict: document.getElementById("result").hidden ? null : document.getElementById("verdict").textContent,
      focus: document.activeElement.id,
      patches: document.getElementById("patches").tBodies[0].rows.length,
      c2pa: document.getElementById("c2pa").textContent,
      metadata: document.getElementById("metadata").textContent,
      contrast: contrast(getComputedStyle(document.getElementById("note")).color, getComputedStyle(document.body).backgroundColor),
      shown: document.getElementById("image").naturalWidth,
      painted: (() => {
        const canvas = document.getElementById("heat");
        return canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.some((v) => v > 0);
      })(),
    }));
    said.seen.push({ how: `${colorScheme} ${how}`, ...found });
    await page.screenshot({ path: join(shots, `${colorScheme}-${how}.png`), fullPage: true });
  };

  // The chooser is the first thing that Tab reaches.
  await page.keyboard.press("Tab");
  said.seen.push({ how: `${colorScheme} tab`, focus: await page.evaluate(() => document.activeElement.id) });
  const chooser = page.waitForEvent("filechooser");
  await page.click("#file");
  await (await chooser).setFiles(image);
  await page.waitForFunction(() => document.getElementById("status").textContent !== "");
  await seen("chosen");

  for (const [how, path] of [["dropped", image], ["broken", broken]]) {
    const data = readFileSync(path).toString("base64");
    const transfer = await page.evaluateHandle(([text, name]) => {
      const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
      const transfer = new DataTransfer();
      transfer.items.add(new File([bytes], name));
      return transfer;
    }, [data, `<img src=x onerror=alert(1)>${how}`]);
    await page.dispatchEvent("#drop", "drop", { dataTransfer: transfer });
    await seen(how);
  }
  await context.close();
}
await browser.close();
console.log(JSON.stringify(said));
