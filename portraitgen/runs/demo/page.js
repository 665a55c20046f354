// What the page does by itself: copying a command, and boxes that are drawn into a field of numbers.
document.addEventListener("click", (event) => {
  const button = event.target.closest(".pg-copy");
  if (!button) return;
  const text = button.closest(".pg-result").querySelector("pre").innerText;
  navigator.clipboard.writeText(text).then(() => {
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = "Copy the command"), 2000);
  });
});

// Gradio calls all its fields for files "Click to upload or drop files": each is called by its label, too.
const name = () => {
  for (const button of document.querySelectorAll(".pg-field .upload-container")) {
    const label = button.closest(".block").querySelector("label");
    const seen = button.innerText.replace(/\s+/g, " ").trim() || "Add files";
    const called = `${label ? label.innerText.trim() : ""}: ${seen}`;
    if (button.getAttribute("aria-label") !== called) button.setAttribute("aria-label", called);
  }
  // A button around another one, whose name Gradio does not translate; a name without the words that are seen.
  for (const around of document.querySelectorAll(".pg-field [aria-label='common.upload']")) {
    const all = { role: "group", tabindex: "-1", title: "Add files", "aria-label": "Add files" };
    for (const [key, value] of Object.entries(all)) around.setAttribute(key, value);
  }
  for (const button of document.querySelectorAll(".pg-field .playback")) {
    const [said, seen] = [button.getAttribute("aria-label") || "", button.innerText.trim()];
    if (!said.includes(seen)) button.setAttribute("aria-label", `${seen}: ${said}`);
  }
};
new MutationObserver(name).observe(document.documentElement, { childList: true, subtree: true });

(() => {
  let drawn = null;
  const share = (value) => Math.min(Math.max(value, 0), 1);
  const place = (surface, event) => {
    const { left, top, width, height } = surface.getBoundingClientRect();
    return [share((event.clientX - left) / width), share((event.clientY - top) / height)];
  };
  const numbers = (surface) => document.querySelector(`#${surface.dataset.target} textarea`);
  const boxes = (field) =>
    field.value.split("\n").map((line) => line.split(/[\s,]+/).filter(Boolean).map(Number))
      .filter((box) => box.length === 4 && box.every(Number.isFinite));
  const show = (surface) => {
    const field = numbers(surface);
    if (!field) return;
    const all = boxes(field).concat(drawn && drawn.surface === surface ? [drawn.box] : []);
    surface.replaceChildren(...all.map(([left, top, right, bottom], number) => {
      const box = document.createElement("i");
      Object.assign(box.style, {
        left: `${100 * left}%`, top: `${100 * top}%`,
        width: `${100 * (right - left)}%`, height: `${100 * (bottom - top)}%`,
      });
      box.textContent = number + 1;
      return box;
    }));
  };
  const boxBetween = ([x, y], [u, v]) => [Math.min(x, u), Math.min(y, v), Math.max(x, u), Math.max(y, v)];
  document.addEventListener("pointerdown", (event) => {
    const surface = event.target.closest(".pg-boxes");
    if (!surface) return;
    event.preventDefault();
    const start = place(surface, event);
    drawn = { surface, start, box: boxBetween(start, start) };
  });
  document.addEventListener("pointermove", (event) => {
    if (!drawn) return;
    drawn.box = boxBetween(drawn.start, place(drawn.surface, event));
    show(drawn.surface);
  });
  document.addEventListener("pointerup", () => {
    if (!drawn) return;
    const { surface, box } = drawn;
    drawn = null;
    const field = numbers(surface);
    if (box[2] - box[0] > 0.02 && box[3] - box[1] > 0.02) {
      const line = box.map((edge) => edge.toFixed(2)).join(", ");
      field.value = (field.value.trim() ? `${field.value.trim()}\n` : "") + line;
      field.dispatchEvent(new Event("input", { bubbles: true }));
    }
    show(surface);
  });
  document.addEventListener("input", (event) => {
    for (const surface of document.querySelectorAll(".pg-boxes"))
      if (numbers(surface) === event.target) show(surface);
  });
})();
