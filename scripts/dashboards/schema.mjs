// Checks dashboards against Grafana's own types: `node schema.mjs DASHBOARD.json ...`, with NODE_PATH naming the packages.
// Prints what is wrong, a line each, and exits with 1 if anything is. Unknown keys are wrong: Grafana would ignore them.
import { createRequire } from 'node:module';
import { readFileSync } from 'node:fs';
import { basename, join } from 'node:path';

const packages = process.env.NODE_PATH;
const require = createRequire(join(packages, 'here.js'));
const { createGenerator } = require('ts-json-schema-generator');
const Ajv = require('ajv');

const types = join(packages, '@grafana/schema/dist/types/raw');
const KINDS = ['timeseries', 'stat', 'bargauge'];

function checker(path, type) {
  const schema = createGenerator({ path: join(types, path), type, skipTypeCheck: true }).createSchema(type);
  return new Ajv({ allErrors: true, strict: true, allowUnionTypes: true, strictTypes: false }).compile(schema);
}

const dashboard = checker('dashboard/x/types.gen.d.ts', 'Dashboard');
const kinds = Object.fromEntries(
  KINDS.map((kind) => {
    const path = `composable/${kind}/panelcfg/x/types.gen.d.ts`;
    return [kind, { options: checker(path, 'Options'), custom: kind === 'timeseries' && checker(path, 'FieldConfig') }];
  })
);

let wrong = 0;
function report(where, check, value) {
  if (check(value)) {
    return;
  }
  for (const error of check.errors) {
    wrong += 1;
    console.log(`${where}${error.instancePath}: ${error.message} ${JSON.stringify(error.params)}`);
  }
}

for (const file of process.argv.slice(2)) {
  const board = JSON.parse(readFileSync(file, 'utf8'));
  report(basename(file), dashboard, board);
  for (const panel of board.panels.filter((panel) => panel.type !== 'row')) {
    const where = `${basename(file)} "${panel.title}"`;
    const kind = kinds[panel.type];
    if (kind === undefined) {
      wrong += 1;
      console.log(`${where}: no such kind of panel here: ${panel.type}`);
      continue;
    }
    report(`${where} options`, kind.options, panel.options);
    if (kind.custom) {
      report(`${where} custom`, kind.custom, panel.fieldConfig.defaults.custom ?? {});
    }
  }
}
process.exit(wrong ? 1 : 0);
