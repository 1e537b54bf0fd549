// A click on a Plotly point becomes an event of this component; the figure may be replaced at any time.
const hook = () => {
  for (const plot of document.querySelectorAll('#scatter .js-plotly-plot')) {
    if (plot.dataset.hooked || !plot.on) continue;
    plot.dataset.hooked = '1';
    plot.on('plotly_click', (event) => {
      const point = event.points.find((p) => p.customdata);
      if (point) trigger('select', { recipe: point.customdata[0] });
    });
  }
};
new MutationObserver(hook).observe(document.body, { childList: true, subtree: true });
hook();
