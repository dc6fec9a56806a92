"use strict";
// The viewer of cases, the table's sorting, and the previews of pre-training. NiiVue draws the volumes.

for (const figure of document.querySelectorAll(".previews")) {
  const pictures = [...figure.querySelectorAll("img")];
  figure.querySelector("input").addEventListener("input", (event) => {
    pictures.forEach((picture, number) => { picture.hidden = number !== Number(event.target.value); });
    figure.querySelector("output").textContent = pictures[event.target.value].dataset.epoch;
  });
}

for (const table of document.querySelectorAll("table.sortable")) {
  const titles = [...table.querySelectorAll("thead th")];
  titles.forEach((title, column) => {
    title.tabIndex = 0;
    const sort = () => {
      const sign = title.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      titles.forEach((other) => other.setAttribute("aria-sort", "none"));
      title.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      const text = (row) => row.children[column].textContent.trim();
      const order = (a, b) => {
        const [x, y] = [parseFloat(text(a)), parseFloat(text(b))];
        if (column > 0 && (!isNaN(x) || !isNaN(y))) return isNaN(x) ? 1 : isNaN(y) ? -1 : sign * (x - y);
        return sign * text(a).localeCompare(text(b), undefined, { numeric: true });
      };
      table.tBodies[0].append(...[...table.tBodies[0].rows].sort(order));
    };
    title.addEventListener("click", sort);
    title.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      sort();
    });
  });
}

window.addEventListener("beforeprint", () => {
  document.querySelectorAll("details").forEach((details) => { details.open = true; });
});

const held = document.getElementById("viewer-data");
if (held) startViewer(JSON.parse(held.textContent));

function startViewer({ cases, classes }) {
  const viewer = document.getElementById("viewer");
  const find = (selector) => viewer.querySelector(selector);
  const rows = () => [...document.querySelectorAll("#cases tbody tr")];
  const ERRORS = ["#D55E00", "#0072B2", "#F0E442"];
  let nv = null;
  let shown = null; // the volumes that are drawn, by name
  let latest = 0; // a slow case must not replace one that was chosen after it

  for (const { value, name, colour } of classes) {
    const label = document.createElement("label");
    label.innerHTML = `<input type="checkbox" checked data-value="${value}"> <span class="swatch"></span> `;
    label.querySelector(".swatch").style.background = colour;
    label.append(name);
    find("#classes").append(label);
  }

  async function start() {
    const started = new niivue.Niivue({ // layout 2 is a grid; render 1 is always
      loadingText: "", backColor: [0, 0, 0, 1], crosshairColor: [1, 1, 1, 0.5], crosshairWidth: 0.2,
      isRadiologicalConvention: true, multiplanarLayout: 2, multiplanarShowRender: 1, logLevel: "error",
    });
    await started.attachToCanvas(document.getElementById("canvas"));
    started.onLocationChange = updateSliders;
    nv = started;
  }

  const volume = (name, base64) => niivue.NVImage.loadFromBase64({ base64, name: `${name}.nii.gz` });

  // A table of colours for label values; classes that are switched off are clear.
  function colours(values, palette, isOn) {
    const table = { R: [0], G: [0], B: [0], A: [0], I: [0], labels: [""] };
    values.forEach((value, number) => {
      const [red, green, blue] = [1, 3, 5].map((at) => parseInt(palette[number].slice(at, at + 2), 16));
      table.R.push(red); table.G.push(green); table.B.push(blue); table.I.push(value);
      table.A.push(isOn(value) ? 255 : 0);
      table.labels.push("");
    });
    return table;
  }

  function updateOverlays() {
    if (!shown) return;
    const on = (value) => find(`[data-value="${value}"]`)?.checked ?? true;
    for (const name of ["truth", "prediction"]) {
      shown[name].setColormapLabel(colours(classes.map((c) => c.value), classes.map((c) => c.colour), on));
    }
    shown.errors.setColormapLabel(colours([1, 2, 3], ERRORS, () => true));
    for (const name of ["truth", "prediction", "errors"]) {
      shown[name].opacity = find("[name=overlay]:checked").value === name ? find("#opacity").value / 100 : 0;
    }
    nv.updateGLVolume();
  }

  function updateWindow() {
    if (!shown) return;
    const [low, high] = JSON.parse(find("#window").value);
    [shown.image.cal_min, shown.image.cal_max] = [low, high];
    nv.updateGLVolume();
  }

  function updateView() {
    if (!shown) return;
    const view = find("[name=view]:checked").value;
    const types = {
      all: nv.sliceTypeMultiplanar, axial: nv.sliceTypeAxial, coronal: nv.sliceTypeCoronal,
      sagittal: nv.sliceTypeSagittal, render: nv.sliceTypeRender,
    };
    nv.setSliceType(types[view]);
  }

  function updateSliders() {
    if (!shown) return;
    const position = nv.frac2vox(nv.scene.crosshairPos);
    viewer.querySelectorAll("[data-axis]").forEach((slider, axis) => { slider.value = position[axis]; });
  }

  async function drawCase(found, channel, isNew) {
    const mine = ++latest;
    const { images, truth, prediction, errors } = found.data;
    const loaded = await Promise.all([
      volume("image", images[channel]), volume("truth", truth), volume("prediction", prediction), volume("errors", errors),
    ]);
    if (mine !== latest) return;
    [...nv.volumes].reverse().forEach((old) => nv.removeVolume(old));
    loaded.forEach((one) => nv.addVolume(one));
    shown = { image: loaded[0], truth: loaded[1], prediction: loaded[2], errors: loaded[3] };
    viewer.querySelectorAll("[data-axis]").forEach((slider, axis) => {
      slider.max = loaded[0].dimsRAS[axis + 1] - 1;
    });
    updateOverlays();
    listWindows(found.data.windows[channel]);
    updateWindow();
    if (isNew) nv.scene.crosshairPos = nv.vox2frac(found.data.focus);
    updateView();
    nv.drawScene();
    updateSliders();
  }

  function fill(found) {
    find("#case-name").textContent = found.name;
    find("#case-classes tbody").replaceChildren(...found.classes.map((row) => {
      const line = document.createElement("tr");
      const number = (value, digits) => (value === null ? "–" : value.toFixed(digits));
      const cells = [row.name, number(row.dice, 3), number(row.hd95, 2), number(row.truth, 2), number(row.predicted, 2),
        row.flag];
      line.append(...cells.map((text) => Object.assign(document.createElement("td"), { textContent: text })));
      return line;
    }));
    const data = found.data;
    const mm = data ? data.spacing.map((value) => value.toFixed(2)).join(" × ") : "";
    find("#case-note").textContent = !data ? `No image: ${found.reason}.`
      : data.reduced ? `Shown coarser than it is, at ${mm} mm. Figures and errors are those of the full image.` : `${mm} mm`;
    find("#channels").querySelectorAll("label").forEach((old) => old.remove());
    if (data && data.images.length > 1) {
      data.images.forEach((_, channel) => {
        const label = document.createElement("label");
        label.innerHTML = `<input type="radio" name="channel" value="${channel}"${channel ? "" : " checked"}> ${channel + 1}`;
        label.firstChild.addEventListener("change", () => drawCase(found, channel, false));
        find("#channels").append(label);
      });
    }
  }

  function listWindows(windows) {
    const chosen = find("#window").selectedIndex;
    find("#window").replaceChildren(...Object.entries(windows).map(([name, range]) => {
      const text = `${name} (${range.map((value) => Number(value.toPrecision(4))).join(" to ")})`;
      return new Option(text, JSON.stringify(range));
    }));
    find("#window").selectedIndex = Math.max(0, chosen); // the same kind of window as before
  }

  async function showCase(number) {
    const found = cases[number];
    rows().forEach((row) => row.classList.toggle("chosen", Number(row.dataset.case) === number));
    viewer.hidden = false;
    fill(found);
    viewer.classList.toggle("no-image", !found.data);
    if (!found.data) {
      latest += 1; // what is still being loaded must not be drawn
      shown = null;
      return;
    }
    try {
      if (!nv) await start();
      await drawCase(found, 0, true);
    } catch (error) {
      viewer.classList.add("no-image");
      find("#case-note").textContent = `The image cannot be drawn: ${error.message ?? error}. The viewer needs WebGL 2, `
        + "which current Chromium and Firefox have; it may be switched off here.";
    }
  }

  for (const row of rows()) row.querySelector("button").addEventListener("click", () => showCase(Number(row.dataset.case)));
  document.getElementById("cases").addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const order = rows();
    const next = order[order.indexOf(event.target.closest("tr")) + step];
    if (!step || !next) return;
    event.preventDefault();
    next.querySelector("button").focus();
    showCase(Number(next.dataset.case));
  });
  viewer.addEventListener("change", (event) => {
    if (event.target.name === "view") updateView();
    else if (event.target.id === "window") updateWindow();
    else if (event.target.matches("[name=overlay], [data-value]")) updateOverlays();
  });
  find("#opacity").addEventListener("input", updateOverlays);
  find("#slices").addEventListener("input", (event) => {
    if (!shown) return;
    const position = nv.frac2vox(nv.scene.crosshairPos);
    position[event.target.dataset.axis] = Number(event.target.value);
    nv.scene.crosshairPos = nv.vox2frac(position);
    nv.drawScene();
  });
  window.addEventListener("beforeprint", () => nv?.drawScene());
  window.report = { showCase, get nv() { return nv; } };
}
