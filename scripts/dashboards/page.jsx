// Draws one dashboard with Grafana's own components. `window.draw(board, setting)` returns when every panel has its data;
// setting: {prometheus, from, to (seconds), step, width, variables: [[name, value], ...]}. A panel without data throws.
import {
  EventBusSrv,
  FieldType,
  createTheme,
  dateTime,
  getDisplayProcessor,
  toDataFrame,
} from '@grafana/data';
import { BarGauge, BigValue, PanelChrome, PanelContextProvider, ThemeContext, TimeSeries, VizRepeater } from '@grafana/ui';
import { createRoot } from 'react-dom/client';
import { initPluginTranslations } from '@grafana/i18n';
import 'uplot/dist/uPlot.min.css';

const theme = createTheme({ colors: { mode: 'dark' } });
const CELL_PX = 30;
const GAP_PX = 8;

async function ask(target, setting) {
  const { prometheus, from, to, step } = setting;
  const query = setting.variables.reduce((text, [name, value]) => text.replaceAll(name, value), target.expr);
  const parameters = target.instant ? { query, time: to } : { query, start: from, end: to, step };
  const path = target.instant ? 'query' : 'query_range';
  const answer = await fetch(`${prometheus}/api/v1/${path}?${new URLSearchParams(parameters)}`);
  const { status, data, error } = await answer.json();
  if (status !== 'success') {
    throw new Error(`${query}: ${error}`);
  }
  return data.result.map(({ metric, value, values }) => ({ labels: metric, points: values ?? [value] }));
}

function legend(target, labels) {
  return target.legendFormat.replace(/{{\s*(\w+)\s*}}/g, (_, name) => labels[name] ?? '') || 'value';
}

// What applyFieldOverrides does, for the matchers and properties that our dashboards use.
function configOf(defaults, overrides, name) {
  const config = structuredClone(defaults);
  config.custom ??= {};
  for (const { matcher, properties } of overrides) {
    if (matcher.id !== 'byName') {
      throw new Error(`unknown matcher ${matcher.id}`);
    }
    if (matcher.options === name) {
      for (const { id, value } of properties) {
        const custom = id.startsWith('custom.');
        (custom ? config.custom : config)[custom ? id.slice(7) : id] = value;
      }
    }
  }
  return { ...config, displayName: name };
}

async function framesOf(panel, setting) {
  const frames = [];
  for (const target of panel.targets) {
    for (const { labels, points } of await ask(target, setting)) {
      const numbers = points.map(([, text]) => Number(text)).map((value) => (Number.isFinite(value) ? value : null));
      const name = legend(target, labels);
      const config = configOf(panel.fieldConfig.defaults, panel.fieldConfig.overrides, name);
      const times = points.map(([second]) => second * 1000);
      const frame = toDataFrame({
        refId: target.refId,
        fields: [
          { name: 'Time', type: FieldType.time, values: times, config: {} },
          { name: 'Value', type: FieldType.number, values: numbers, labels, config },
        ],
      });
      if (numbers.some((value) => value !== null)) {
        frames.push(withGaps(frame, setting, target.instant));
      }
    }
  }
  if (!frames.length) {
    throw new Error(`no data: ${panel.title}`);
  }
  frames.forEach((frame, index) => {
    const field = frame.fields[1];
    field.state = { seriesIndex: index, displayName: field.config.displayName };
    field.display = getDisplayProcessor({ field, theme });
    frame.fields[0].display = getDisplayProcessor({ field: frame.fields[0], theme });
  });
  return frames;
}

// Prometheus leaves out steps without a value; a line must not be drawn across them.
function withGaps(frame, { from, to, step }, instant) {
  if (instant) {
    return frame;
  }
  const [time, field] = frame.fields;
  const known = new Map(time.values.map((at, index) => [at, field.values[index]]));
  const grid = Array.from({ length: Math.floor((to - from) / step) + 1 }, (_, n) => Math.round((from + n * step) * 1000));
  time.values = grid;
  field.values = grid.map((at) => known.get(at) ?? null);
  frame.length = grid.length;
  return frame;
}

function last(frame) {
  const field = frame.fields[1];
  const value = field.values.findLast((one) => one !== null);
  return { ...field.display(value), title: field.config.displayName };
}

function Stat({ panel, frames, width, height }) {
  const named = panel.options.textMode === 'value_and_name';
  return (
    <VizRepeater
      source={frames}
      orientation="horizontal"
      width={width}
      height={height}
      getValues={() => frames}
      renderValue={({ value: frame, width, height }) => {
        const value = last(frame);
        return (
          <BigValue
            value={named ? value : { ...value, title: undefined }}
            width={width}
            height={height}
            theme={theme}
            colorMode={panel.options.colorMode}
            graphMode="none"
            justifyMode={named ? 'auto' : 'center'}
            textMode={panel.options.textMode}
          />
        );
      }}
    />
  );
}

function Bars({ panel, frames, width, height }) {
  const values = frames.map(last);
  const most = 1.15 * Math.max(...values.map((value) => value.numeric), 1); // a full bar would squeeze its name
  return (
    <VizRepeater
      source={values}
      orientation="horizontal"
      width={width}
      height={height}
      itemSpacing={8}
      maxVizHeight={panel.options.maxVizHeight}
      minVizHeight={panel.options.minVizHeight}
      getAlignmentFactors={() => ({ title: longest(values, 'title'), text: longest(values, 'text') })}
      getValues={() => values}
      renderValue={({ value, width, height, alignmentFactors }) => (
        <BarGauge
          value={value}
          width={width}
          height={height}
          theme={theme}
          field={{ ...panel.fieldConfig.defaults, min: 0, max: most }}
          display={frames[0].fields[1].display}
          text={panel.options.text}
          namePlacement={panel.options.namePlacement}
          orientation="horizontal"
          displayMode={panel.options.displayMode}
          showUnfilled={panel.options.showUnfilled}
          alignmentFactors={alignmentFactors}
        />
      )}
    />
  );
}

function longest(values, key) {
  return values.reduce((most, value) => (String(value[key]).length > most.length ? String(value[key]) : most), '');
}

function Graph({ panel, frames, width, height, setting }) {
  const from = dateTime(setting.from * 1000);
  const to = dateTime(setting.to * 1000);
  return (
    <TimeSeries
      frames={frames}
      width={width}
      height={height}
      timeRange={{ from, to, raw: { from, to } }}
      timeZone="utc"
      legend={panel.options.legend}
    />
  );
}

const KINDS = { timeseries: Graph, stat: Stat, bargauge: Bars };

function Panel({ panel, frames, setting }) {
  const column = (setting.width - GAP_PX) / 24;
  const { x, y, w, h } = panel.gridPos;
  const place = {
    position: 'absolute',
    left: GAP_PX + x * column,
    top: y * (CELL_PX + GAP_PX),
    width: w * column - GAP_PX,
    height: h * (CELL_PX + GAP_PX) - GAP_PX,
  };
  if (panel.type === 'row') {
    return <div style={{ ...place, fontSize: 15, fontWeight: 500, lineHeight: `${CELL_PX}px` }}>{panel.title}</div>;
  }
  const Kind = KINDS[panel.type];
  return (
    <div style={place}>
      <PanelChrome title={panel.title} width={place.width} height={place.height}>
        {(width, height) => <Kind panel={panel} frames={frames} width={width} height={height} setting={setting} />}
      </PanelChrome>
    </div>
  );
}

window.draw = async (board, setting) => {
  await initPluginTranslations('stockade');
  const all = await Promise.all(
    board.panels.map(async (panel) => (panel.type === 'row' ? [] : await framesOf(panel, setting)))
  );
  const height = Math.max(...board.panels.map(({ gridPos: { y, h } }) => y + h)) * (CELL_PX + GAP_PX) + GAP_PX;
  const style = { position: 'relative', width: setting.width, height, background: theme.colors.background.canvas };
  const text = { color: theme.colors.text.primary, fontFamily: theme.typography.fontFamily, fontSize: 14 };
  Object.assign(document.body.style, { margin: 0, background: theme.colors.background.canvas });
  createRoot(document.getElementById('board')).render(
    <ThemeContext.Provider value={theme}>
      <PanelContextProvider value={{ eventsScope: 'board', eventBus: new EventBusSrv() }}>
        <div style={{ ...style, ...text }}>
          {board.panels.map((panel, index) => (
            <Panel key={panel.id} panel={panel} frames={all[index]} setting={setting} />
          ))}
        </div>
      </PanelContextProvider>
    </ThemeContext.Provider>
  );
  return height;
};
