// Labels the points of the charts, and makes a click on a point or its label an event of this component. A figure may
// be replaced at any time. customdata of a point: recipe, label (may be empty), rank (labels of low ranks come first).
const SVG = 'http://www.w3.org/2000/svg';
const make = (name, attributes) => {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
};
const overlap = (a, b) => a.x < b.x + b.w && b.x < a.x + a.w && a.y < b.y + b.h && b.y < a.y + a.h;

// Places around a point, the closest first: x and y of the label's nearest edge or center, in pixels from the point.
const places = [[1, 0], [-1, 0], [1, -1], [-1, -1], [1, 1], [-1, 1], [0, -1], [0, 1]];
const spots = [8, 20, 34, 50].flatMap((far) => places.map(([dx, dy]) => ({ dx, dy, far })));

const pointsOf = (plot) => {
  const { xaxis, yaxis } = plot._fullLayout;
  const found = [];
  for (const trace of plot.data) {
    (trace.customdata || []).forEach(([recipe, text, rank], i) => found.push({
      recipe, text, rank, x: xaxis._offset + xaxis.d2p(trace.x[i]), y: yaxis._offset + yaxis.d2p(trace.y[i]),
    }));
  }
  return found.sort((a, b) => a.rank - b.rank);
};

const boxAt = (point, { dx, dy, far }, w, h) => ({
  x: point.x + (dx > 0 ? far : dx < 0 ? -far - w : -w / 2),
  y: point.y + (dy > 0 ? far * 0.7 : dy < 0 ? -far * 0.7 - h : -h / 2),
  w, h,
});

const label = (plot) => {
  plot.querySelector('.labels')?.remove();
  if (!plot._fullLayout?.xaxis || !plot.clientWidth) return;
  const { xaxis, yaxis } = plot._fullLayout;
  const frame = { x: xaxis._offset, y: yaxis._offset, w: xaxis._length, h: yaxis._length };
  const layer = plot.querySelector('.main-svg').appendChild(make('g', { class: 'labels' }));
  const found = pointsOf(plot);
  const taken = found.map(({ x, y }) => ({ x: x - 6, y: y - 6, w: 12, h: 12 }));
  for (const point of found.filter((p) => p.text)) {
    const text = layer.appendChild(make('text', { class: `rank${point.rank}` }));
    text.textContent = point.text;
    const { width, height } = text.getBBox();
    const spot = spots.find((candidate) => {
      const box = boxAt(point, candidate, width, height);
      const inside = box.x >= frame.x && box.y >= frame.y && box.x + box.w <= frame.x + frame.w && box.y + box.h <= frame.y + frame.h;
      return inside && !taken.some((other) => overlap(box, other));
    });
    if (!spot) { text.remove(); continue; }  // the text under the pointer names it
    const box = boxAt(point, spot, width, height);
    taken.push(box);
    text.setAttribute('x', box.x);
    text.setAttribute('y', box.y + height * 0.78);
    text.addEventListener('click', () => trigger('select', { recipe: point.recipe }));
    if (spot.far > 8) {
      const x = Math.min(Math.max(point.x, box.x), box.x + box.w), y = Math.min(Math.max(point.y, box.y), box.y + box.h);
      layer.prepend(make('line', { x1: point.x, y1: point.y, x2: x, y2: y }));
    }
  }
};

const hook = () => {
  for (const plot of document.querySelectorAll('.scatter .js-plotly-plot')) {
    if (plot.dataset.hooked || !plot.on) continue;
    plot.dataset.hooked = '1';
    plot.on('plotly_click', (event) => {
      const point = event.points.find((p) => p.customdata);
      if (point) trigger('select', { recipe: point.customdata[0] });
    });
    plot.on('plotly_afterplot', () => label(plot));
    label(plot);
  }
};
new MutationObserver(hook).observe(document.body, { childList: true, subtree: true });
hook();
